"""Alembic's steps from the first schema on; `env` runs them on a connection that the caller gives."""
