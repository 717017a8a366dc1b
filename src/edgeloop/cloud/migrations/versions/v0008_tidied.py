"""What was removed by age, so that it does not come back; and whether a restore came to its end.

Samples are found by their bytes' hash: those that no row names any more may go.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the tables and the column; restores that are noted came to their end."""
    op.create_table(
        "tidied",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("first", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("removed", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "epoch", "first", name=op.f("pk_tidied")),
    )
    op.create_table(
        "loose_blobs",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("since_s", sa.Float(), nullable=False),
        sa.Column("is_gone", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_loose_blobs")),
    )
    op.create_index("ix_samples_sha256", "samples", ["sha256"])
    op.add_column("restores", sa.Column("is_whole", sa.Boolean(), nullable=False, server_default=sa.true()))


def downgrade() -> None:
    """Drop them: what was removed may come back when a device sends it again."""
    op.execute(sa.text("ALTER TABLE restores DROP COLUMN is_whole"))  # SQLite has it since 3.35
    op.drop_index("ix_samples_sha256", "samples")
    op.drop_table("loose_blobs")
    op.drop_table("tidied")
