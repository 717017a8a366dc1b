"""Roots of trust as rows, so that they can be rotated.

An older cloud kept version 1 of both in files beside the database; they are taken in when it is next opened
(`store.roots.adopt`), and the files stay where they are, so that the way back is open as long as nothing was rotated.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "signed_roots",
        sa.Column("repository", sa.String(length=16), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.Column("added_at_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("repository", "version", name=op.f("pk_signed_roots")),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("signed_roots")
