"""When each device last asked to be let in, by its own word: what it signed before that moves it nowhere."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the column; of devices that are there it is not known."""
    op.add_column("devices", sa.Column("asked_at_ms", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Drop it."""
    op.execute(sa.text("ALTER TABLE devices DROP COLUMN asked_at_ms"))  # SQLite has it since 3.35
