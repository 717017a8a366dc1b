"""Scripts for peers that live in a Python of their own; each imports its peer and nothing of ours."""
