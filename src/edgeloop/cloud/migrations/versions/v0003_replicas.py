"""What several replicas must share, and what a restore must remember: used nonces; from which generation to go on."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "used_nonces",
        sa.Column("device_id", sa.String(length=63), nullable=False),
        sa.Column("nonce", sa.String(length=64), nullable=False),
        sa.Column("expires_at_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "nonce", name=op.f("pk_used_nonces")),
    )
    op.create_index(op.f("ix_used_nonces_expires_at_s"), "used_nonces", ["expires_at_s"], unique=False)
    op.create_table(
        "restores",
        sa.Column("restored_at_s", sa.Float(), nullable=False),
        sa.Column("made_at_s", sa.Float(), nullable=False),
        sa.Column("generation_floor", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("restored_at_s", name=op.f("pk_restores")),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("restores")
    op.drop_index(op.f("ix_used_nonces_expires_at_s"), table_name="used_nonces")
    op.drop_table("used_nonces")
