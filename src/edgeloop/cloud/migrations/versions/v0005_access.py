"""Roles and expiry of API tokens, the log of what was done, revocation of devices and join tokens.

Whoever had a token may do all that they could: they become owners.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_APPEND_ONLY = ("access_log", "access_outcomes")


def upgrade() -> None:
    """Add the columns and tables; from then on the database itself turns down a change of the log."""
    op.add_column("api_tokens", sa.Column("role", sa.String(length=16), nullable=False, server_default="owner"))
    op.add_column("api_tokens", sa.Column("expires_at_s", sa.Float(), nullable=True))
    op.add_column("api_tokens", sa.Column("created_by", sa.String(length=200), nullable=False, server_default=""))
    op.create_index("ix_api_tokens_name", "api_tokens", ["name"], unique=True)
    op.add_column("join_tokens", sa.Column("uses", sa.Integer(), nullable=True))
    op.add_column("join_tokens", sa.Column("made_at_s", sa.Float(), nullable=True))
    op.add_column("join_tokens", sa.Column("made_by", sa.String(length=200), nullable=False, server_default=""))
    op.add_column("join_tokens", sa.Column("note", sa.String(length=200), nullable=False, server_default=""))
    op.add_column("join_tokens", sa.Column("revoked_at_s", sa.Float(), nullable=True))
    op.add_column("devices", sa.Column("revoked_at_s", sa.Float(), nullable=True))
    op.add_column("devices", sa.Column("may_rejoin", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("devices", sa.Column("joined_with", sa.String(length=12), nullable=True))
    op.create_table(
        "access_log",
        sa.Column("entry", sa.Integer(), nullable=False),
        sa.Column("at_s", sa.Float(), nullable=False),
        sa.Column("who", sa.String(length=200), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=100), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("entry", name=op.f("pk_access_log")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "access_outcomes",
        sa.Column("entry", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at_s", sa.Float(), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["entry"], ["access_log.entry"], name=op.f("fk_access_outcomes_entry_access_log")),
        sa.PrimaryKeyConstraint("entry", name=op.f("pk_access_outcomes")),
    )
    for table in _APPEND_ONLY:
        _forbid_changes(table)


def downgrade() -> None:
    """Drop them; the log is lost, and whoever has a token may do everything again."""
    for table in reversed(_APPEND_ONLY):
        op.drop_table(table)  # and its triggers with it
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION access_log_is_append_only()")
    for column in ("joined_with", "may_rejoin", "revoked_at_s"):
        _drop_column("devices", column)
    for column in ("revoked_at_s", "note", "made_by", "made_at_s", "uses"):
        _drop_column("join_tokens", column)
    op.drop_index("ix_api_tokens_name", table_name="api_tokens")
    for column in ("created_by", "expires_at_s", "role"):
        _drop_column("api_tokens", column)


def _drop_column(table: str, column: str) -> None:
    op.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN {column}"))  # SQLite has it since 3.35


def _forbid_changes(table: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE OR REPLACE FUNCTION access_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the access log is append-only'; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION access_log_is_append_only()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
            "BEGIN SELECT RAISE(ABORT, 'the access log is append-only'); END"
        )
