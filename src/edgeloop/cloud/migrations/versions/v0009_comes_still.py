"""An index of the devices whose part in a rollout is not over: every look at the rollouts asks for them, and read the
devices of all rollouts that ever were.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
_COMES_STILL = sa.text("outcome IS NULL OR outcome = 'unreachable'")


def upgrade() -> None:
    """Add the index."""
    op.create_index(
        "ix_rollout_devices_comes_still",
        "rollout_devices",
        ["rollout_id"],
        sqlite_where=_COMES_STILL,
        postgresql_where=_COMES_STILL,
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_index("ix_rollout_devices_comes_still", "rollout_devices")
