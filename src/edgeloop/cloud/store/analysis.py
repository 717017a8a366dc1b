"""Which devices' input has drifted, in SQL over what came up.

The verdict is an effect size, not a significance test: with thousands of readings any harmless difference is
significant. A device has drifted when its mean novelty or energy lies more than a standard deviation of clean
data above clean data's, or when its own CUSUM alarm is on.

Each device's newest readings are found through the index, one device after another: it costs the same however long the
history is. Measured on 1,000 devices with 1,500 readings each: 7 s as one query over all of them, 0.9 s so.
"""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from edgeloop.cloud.store import fleet
from edgeloop.cloud.store.tables import devices, events, samples
from edgeloop.contracts.api import DriftRow

MIN_READINGS = 30
"""Fewer than this, and the cloud says nothing of its own."""

DRIFT_BOUND = 1.0
"""Standard deviations of clean data."""


class _Means(msgspec.Struct, frozen=True):
    readings: int
    margin: float
    novelty: float | None
    energy_z: float | None


_NEWEST = (
    sa.select(events.c.margin, events.c.novelty, events.c.energy_z)
    .where(
        events.c.device_id == sa.bindparam("device"),
        events.c.bundle == sa.bindparam("of"),
        events.c.kind == "reading",
    )
    .order_by(events.c.at_ms.desc())
    .limit(sa.bindparam("last"))
    .subquery()
)
_MEANS = sa.select(
    sa.func.count(), sa.func.avg(_NEWEST.c.margin), sa.func.avg(_NEWEST.c.novelty), sa.func.avg(_NEWEST.c.energy_z)
)
_AT_ONCE = 500


def drift(connection: sa.Connection, bundle: str, *, last: int) -> list[DriftRow]:
    """One row for each device that has readings under `bundle`, by its `last` newest ones."""
    labels = labelled_samples(connection, bundle)
    found = connection.execute(sa.select(devices.c.device_id, devices.c.report).order_by(devices.c.device_id)).all()
    rows = [(row.device_id, _means(connection, row.device_id, bundle, last=last), row.report) for row in found]
    return [
        _row(device_id, bundle, means, _alarm(report, bundle), labels.get(device_id, (0, 0)))
        for device_id, means, report in rows
        if means.readings
    ]


def drifting(connection: sa.Connection, device_ids: Sequence[str], *, last: int) -> dict[str, bool]:
    """Whether the input of each of these devices has drifted under what it runs, by its `last` newest readings."""
    found = dict.fromkeys(device_ids, False)
    for start in range(0, len(device_ids), _AT_ONCE):
        some = device_ids[start : start + _AT_ONCE]
        query = sa.select(devices.c.device_id, devices.c.report).where(devices.c.device_id.in_(some))
        for row in connection.execute(query).all():
            said, _ = fleet.stored_report(row.report)
            bundle = said.active if said else None
            if bundle is not None:
                means = _means(connection, row.device_id, bundle, last=last)
                found[row.device_id] = means.readings > 0 and _verdict(means, _alarm(row.report, bundle))[0]
    return found


def _means(connection: sa.Connection, device_id: str, bundle: str, *, last: int) -> _Means:
    values = {"device": device_id, "of": bundle, "last": last}
    readings, margin, novelty, energy_z = connection.execute(_MEANS, values).one()
    return _Means(readings, margin or 0.0, novelty, energy_z)


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
    said, _ = fleet.stored_report(report)
    if said is None:
        return None
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
