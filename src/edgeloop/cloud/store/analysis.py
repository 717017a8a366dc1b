"""Which devices' input has drifted, in SQL over what came up.

The verdict is an effect size, not a significance test: with thousands of readings any harmless difference is
significant. A device has drifted when its mean novelty or energy lies more than a standard deviation of clean
data above clean data's, or when its own CUSUM alarm is on.
"""

import msgspec
import sqlalchemy as sa

from edgeloop.cloud.store.tables import devices, events, samples
from edgeloop.contracts.api import DriftRow
from edgeloop.contracts.messages import DeviceReport

MIN_READINGS = 30
"""Fewer than this, and the cloud says nothing of its own."""

DRIFT_BOUND = 1.0
"""Standard deviations of clean data."""


class _Means(msgspec.Struct, frozen=True):
    readings: int
    margin: float
    novelty: float | None
    energy_z: float | None


def drift(connection: sa.Connection, bundle: str, *, last: int) -> list[DriftRow]:
    """One row for each device that has readings under `bundle`, by its `last` newest ones."""
    rank = sa.func.row_number().over(partition_by=events.c.device_id, order_by=events.c.at_ms.desc()).label("rank")
    newest = (
        sa.select(events.c.device_id, events.c.margin, events.c.novelty, events.c.energy_z, rank)
        .where(events.c.bundle == bundle, events.c.kind == "reading")
        .subquery()
    )
    query = (
        sa.select(
            newest.c.device_id,
            sa.func.count().label("readings"),
            sa.func.avg(newest.c.margin).label("margin"),
            sa.func.avg(newest.c.novelty).label("novelty"),
            sa.func.avg(newest.c.energy_z).label("energy_z"),
            sa.func.max(devices.c.report).label("report"),
        )
        .join_from(newest, devices, devices.c.device_id == newest.c.device_id)
        .where(newest.c.rank <= last)
        .group_by(newest.c.device_id)
        .order_by(newest.c.device_id)
    )
    labels = labelled_samples(connection, bundle)
    return [
        _row(
            row.device_id,
            bundle,
            _Means(row.readings, row.margin or 0.0, row.novelty, row.energy_z),
            _alarm(row.report, bundle),
            labels.get(row.device_id, (0, 0)),
        )
        for row in connection.execute(query)
    ]


def labelled_samples(connection: sa.Connection, bundle: str) -> dict[str, tuple[int, int]]:
    """Labelled and right samples by device, of readings under the bundle."""
    reading = events.alias("reading")
    same = sa.and_(
        reading.c.device_id == samples.c.device_id,
        reading.c.epoch == samples.c.epoch,
        reading.c.sequence == samples.c.sequence - 1,
    )
    right = sa.func.sum(sa.case((samples.c.label == reading.c.label, 1), else_=0))
    query = (
        sa.select(samples.c.device_id, sa.func.count().label("labelled"), right.label("right"))
        .join_from(samples, reading, same)
        .where(samples.c.label.is_not(None), reading.c.bundle == bundle)
        .group_by(samples.c.device_id)
    )
    return {row.device_id: (row.labelled, int(row.right)) for row in connection.execute(query)}


def _alarm(report: str | None, bundle: str) -> str | None:
    """The device's own alarm, if it is on for this bundle."""
    if report is None:
        return None
    said = msgspec.json.decode(report, type=DeviceReport)
    return said.health.drift_reason or "alarm" if said.health.drift_alarm and said.active == bundle else None


def _row(device_id: str, bundle: str, means: _Means, alarm: str | None, labels: tuple[int, int]) -> DriftRow:
    drifted, why = _verdict(means, alarm)
    labelled, right = labels
    return DriftRow(
        device_id=device_id,
        bundle=bundle,
        readings=means.readings,
        margin_mean=means.margin,
        novelty_mean=means.novelty,
        energy_z_mean=means.energy_z,
        device_alarm=alarm is not None,
        labelled=labelled,
        labelled_accuracy=right / labelled if labelled else None,
        drifted=drifted,
        why=why,
    )


def _verdict(means: _Means, alarm: str | None) -> tuple[bool, str]:
    if means.readings >= MIN_READINGS:
        for name, value in (("novelty", means.novelty), ("energy", means.energy_z)):
            if value is not None and value > DRIFT_BOUND:
                return True, f"mean {name} {value:+.2f} std of clean data, bound {DRIFT_BOUND:+.2f}"
    if alarm is not None:
        return True, f"the device's own alarm: {alarm}"
    if means.readings < MIN_READINGS:
        return False, f"only {means.readings} readings; {MIN_READINGS} are needed"
    return False, "within the bounds"
