"""The model package as bytes: write, open, verify, keep."""
