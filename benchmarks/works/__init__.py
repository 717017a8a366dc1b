"""The works of the figures table, one module a work; each gives rows."""
