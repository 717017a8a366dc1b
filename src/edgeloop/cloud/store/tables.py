"""The cloud's tables, in SQL that SQLite and PostgreSQL share. Migrations must end where this says (tested)."""

import sqlalchemy as sa

from edgeloop.contracts.states import Outcome

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

api_tokens = sa.Table(
    "api_tokens",
    metadata,
    sa.Column("secret_hash", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("created_at_s", sa.Float, nullable=False),
    sa.Column("role", sa.String(16), nullable=False, server_default="owner"),
    sa.Column("expires_at_s", sa.Float, nullable=True),
    sa.Column("created_by", sa.String(200), nullable=False, server_default=""),
    sa.Index("ix_api_tokens_name", "name", unique=True),
)

access_log = sa.Table(
    "access_log",
    metadata,
    sa.Column("entry", sa.Integer, primary_key=True),
    sa.Column("at_s", sa.Float, nullable=False),
    sa.Column("who", sa.String(200), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("address", sa.String(64), nullable=False),
    sa.Column("action", sa.String(100), nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)

access_outcomes = sa.Table(
    "access_outcomes",
    metadata,
    sa.Column("entry", sa.Integer, sa.ForeignKey("access_log.entry"), primary_key=True, autoincrement=False),
    sa.Column("at_s", sa.Float, nullable=False),
    sa.Column("outcome", sa.String(32), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)

join_tokens = sa.Table(
    "join_tokens",
    metadata,
    sa.Column("secret_hash", sa.String(64), primary_key=True),
    sa.Column("uses_left", sa.Integer, nullable=False),
    sa.Column("expires_at_s", sa.Float, nullable=False),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("uses", sa.Integer, nullable=True),
    sa.Column("made_at_s", sa.Float, nullable=True),
    sa.Column("made_by", sa.String(200), nullable=False, server_default=""),
    sa.Column("note", sa.String(200), nullable=False, server_default=""),
    sa.Column("revoked_at_s", sa.Float, nullable=True),
)

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("device_id", sa.String(63), primary_key=True),
    sa.Column("public_key", sa.LargeBinary(32), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("via", sa.String(63), nullable=True),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("enrolled_at_s", sa.Float, nullable=False),
    sa.Column("last_seen_s", sa.Float, nullable=True),
    sa.Column("report", sa.Text, nullable=True),
    sa.Column("revoked_at_s", sa.Float, nullable=True),
    sa.Column("may_rejoin", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("joined_with", sa.String(12), nullable=True),
    sa.Column("asked_at_ms", sa.BigInteger, nullable=True),
    sa.Index("ix_devices_via", "via"),
)

assignments = sa.Table(
    "assignments",
    metadata,
    sa.Column("device_id", sa.String(63), sa.ForeignKey("devices.device_id"), primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("assigned_at_s", sa.Float, nullable=False),
    sa.Column("body", sa.Text, nullable=True),
)

bundles = sa.Table(
    "bundles",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("version", sa.String(32), primary_key=True),
    sa.Column("manifest_sha256", sa.String(64), nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.Column("published_at_s", sa.Float, nullable=False),
)

signed_targets = sa.Table(
    "signed_targets",
    metadata,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("metadata", sa.LargeBinary, nullable=False),
    sa.Column("published_at_s", sa.Float, nullable=False),
)

signed_roots = sa.Table(
    "signed_roots",
    metadata,
    sa.Column("repository", sa.String(16), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("metadata", sa.LargeBinary, nullable=False),
    sa.Column("added_at_s", sa.Float, nullable=False),
)

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("rollout_id", sa.String(32), primary_key=True),
    sa.Column("bundle", sa.String(100), nullable=False),
    sa.Column("group_name", sa.String(200), nullable=False),
    sa.Column("waves", sa.Text, nullable=False),
    sa.Column("gate", sa.Text, nullable=False),
    sa.Column("wave", sa.Integer, nullable=False),
    sa.Column("wave_started_at_s", sa.Float, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("started_at_s", sa.Float, nullable=False),
    sa.Column("ended_at_s", sa.Float, nullable=True),
    sa.Column("time_window", sa.Text, nullable=True),
    sa.Column("paused_at_s", sa.Float, nullable=True),
)

rollout_devices = sa.Table(
    "rollout_devices",
    metadata,
    sa.Column("rollout_id", sa.String(32), sa.ForeignKey("rollouts.rollout_id"), primary_key=True),
    sa.Column("device_id", sa.String(63), sa.ForeignKey("devices.device_id"), primary_key=True),
    sa.Column("wave", sa.Integer, nullable=False),
    sa.Column("generation", sa.Integer, nullable=True),
    sa.Column("state", sa.String(16), nullable=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("before", sa.Text, nullable=True),
    sa.Column("outcome", sa.String(16), nullable=True),
    sa.Column("since_s", sa.Float, nullable=True),
)
COMES_STILL = sa.or_(
    rollout_devices.c.outcome.is_(None), rollout_devices.c.outcome == sa.literal_column(f"'{Outcome.UNREACHABLE}'")
)
"""A device's part in a rollout is not over, or it was left behind and may be heard of again."""
sa.Index(
    "ix_rollout_devices_comes_still",
    rollout_devices.c.rollout_id,
    sqlite_where=COMES_STILL,
    postgresql_where=COMES_STILL,
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("device_id", sa.String(63), primary_key=True),
    sa.Column("epoch", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("received_ms", sa.BigInteger, nullable=False),
    sa.Column("bundle", sa.String(100), nullable=True),
    sa.Column("label", sa.String(200), nullable=True),
    sa.Column("margin", sa.Float, nullable=True),
    sa.Column("novelty", sa.Float, nullable=True),
    sa.Column("energy_z", sa.Float, nullable=True),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Index("ix_events_device_id_bundle_at_ms", "device_id", "bundle", "at_ms"),
)

samples = sa.Table(
    "samples",
    metadata,
    sa.Column("device_id", sa.String(63), primary_key=True),
    sa.Column("epoch", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("reason", sa.String(16), nullable=False),
    sa.Column("media", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False, index=True),
    sa.Column("size_bytes", sa.Integer, nullable=False),
    sa.Column("label", sa.String(200), nullable=True, index=True),
    sa.Column("labelled_by", sa.String(200), nullable=True),
    sa.Column("labelled_at_s", sa.Float, nullable=True),
)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("job_id", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("bundle", sa.String(100), nullable=False, index=True),
    sa.Column("parent", sa.String(100), nullable=True),
    sa.Column("recipe", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("worker", sa.String(200), nullable=True),
    sa.Column("lease_until_s", sa.Float, nullable=True),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("artifacts", sa.Text, nullable=False),
    sa.Column("report", sa.Text, nullable=False),
    sa.Column("created_at_s", sa.Float, nullable=False),
)

used_nonces = sa.Table(
    "used_nonces",
    metadata,
    sa.Column("device_id", sa.String(63), primary_key=True),
    sa.Column("nonce", sa.String(64), primary_key=True),
    sa.Column("expires_at_s", sa.Float, nullable=False, index=True),
)

restores = sa.Table(
    "restores",
    metadata,
    sa.Column("restored_at_s", sa.Float, primary_key=True, autoincrement=False),
    sa.Column("made_at_s", sa.Float, nullable=False),
    sa.Column("generation_floor", sa.Integer, nullable=False),
    sa.Column("is_whole", sa.Boolean, nullable=False, server_default=sa.true()),
)

tidied = sa.Table(
    "tidied",
    metadata,
    sa.Column("device_id", sa.String(63), primary_key=True),
    sa.Column("epoch", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("removed", sa.BigInteger, nullable=False),
    sa.Column("until_ms", sa.BigInteger, nullable=False),
)

loose_blobs = sa.Table(
    "loose_blobs",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("since_s", sa.Float, nullable=False),
    sa.Column("is_gone", sa.Boolean, nullable=False),
)
