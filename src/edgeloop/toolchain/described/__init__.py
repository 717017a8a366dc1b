"""Finished models of every task, described by a person in one TOML file, into bundles."""
