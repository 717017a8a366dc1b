"""A cloud in one file, and a cloud from one file."""
