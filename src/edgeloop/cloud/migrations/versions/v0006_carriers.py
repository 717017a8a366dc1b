"""An index of who carries for whom: a node's every sync and batch asks for it, and so did each device's."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add the index."""
    op.create_index("ix_devices_via", "devices", ["via"])


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_devices_via", "devices")
