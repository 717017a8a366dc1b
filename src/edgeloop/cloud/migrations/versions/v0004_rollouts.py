"""What a rollout came to on each device and since when; pauses; maintenance windows.

Devices that were at work when a rollout was aborted were told to go back: so they came to an end with it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the columns; outcomes follow from what the devices said last."""
    op.add_column("rollouts", sa.Column("time_window", sa.Text(), nullable=True))
    op.add_column("rollouts", sa.Column("paused_at_s", sa.Float(), nullable=True))
    op.add_column("rollout_devices", sa.Column("outcome", sa.String(length=16), nullable=True))
    op.add_column("rollout_devices", sa.Column("since_s", sa.Float(), nullable=True))
    op.execute(
        "UPDATE rollout_devices SET outcome = state WHERE state IN ('confirmed', 'refused', 'rolled_back')",
    )
    op.execute(
        "UPDATE rollout_devices SET since_s = (SELECT wave_started_at_s FROM rollouts "
        "WHERE rollouts.rollout_id = rollout_devices.rollout_id) WHERE generation IS NOT NULL"
    )
    op.execute(
        "UPDATE rollout_devices SET outcome = CASE WHEN state = 'active' THEN 'rolled_back' ELSE 'refused' END "
        "WHERE outcome IS NULL AND generation IS NOT NULL "
        "AND rollout_id IN (SELECT rollout_id FROM rollouts WHERE state = 'aborted')"
    )


def downgrade() -> None:
    """Drop them. What the older schema cannot tell is ended: rollouts that are queued or paused are aborted."""
    op.execute(
        "UPDATE rollouts SET state = 'aborted', reason = 'it was ' || state || ' when the schema went back', "
        "ended_at_s = wave_started_at_s WHERE state IN ('queued', 'paused')"
    )
    op.execute("UPDATE rollout_devices SET state = 'accepting' WHERE state = 'waiting'")
    op.execute('UPDATE devices SET report = replace(report, \'"state":"waiting"\', \'"state":"accepting"\')')
    for table, column in (
        ("rollout_devices", "since_s"),
        ("rollout_devices", "outcome"),
        ("rollouts", "paused_at_s"),
        ("rollouts", "time_window"),
    ):
        op.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN {column}"))  # SQLite has it since 3.35
