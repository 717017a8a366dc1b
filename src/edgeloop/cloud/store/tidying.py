"""What the cloud lets go of by age: readings, alerts, samples that nobody labelled; and what stays of them.

Rules kept here:
- an age counts from when the cloud received something: a device's clock may say 1970;
- what a person labelled stays, and so does the reading that a sample belongs to: datasets are made of them;
- what was removed does not come back when a device sends it again: its sequences are kept as ranges, which span what
  arrived and nothing else, so that what comes late for the first time is taken;
- a sample's bytes go after its row, and only while no row names them. Who sends the same bytes at that moment puts them
  again (`claim_blobs`).

Each call is one small transaction of its own (`begin` first): the writer is held for milliseconds. Neighbours:
`cloud.tidy` calls it over and over, `inbox` asks it what is new.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from edgeloop.cloud.store import locks
from edgeloop.cloud.store.database import insert_ignoring
from edgeloop.cloud.store.glance import run_in
from edgeloop.cloud.store.tables import devices, events, loose_blobs, samples, tidied

_AT_ONCE = 500
_LAST = 2**63 - 1
"""The largest sequence: one more, and no database can be asked for it."""
Identity = tuple[str, int, int]
"""(device, epoch, sequence)."""

# Put together once: every batch asks one of them, nearly always the first.
_RANGE = sa.select(
    tidied.c.device_id, tidied.c.epoch, tidied.c.first, tidied.c.last, tidied.c.removed, tidied.c.until_ms
)
_RANGES_OF_ONE = _RANGE.where(tidied.c.device_id == sa.bindparam("name"))
_RANGES = _RANGE.where(tidied.c.device_id.in_(sa.bindparam("names", expanding=True)))


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """How long the cloud keeps what it received, in seconds; None for ever. samples_s: those that nobody labelled."""

    readings_s: float | None = None
    alerts_s: float | None = None
    samples_s: float | None = None

    @property
    def shortest_s(self) -> float | None:
        """What is younger stays, whatever it is; None if all is kept for ever."""
        return min((age for age in (self.readings_s, self.alerts_s, self.samples_s) if age is not None), default=None)


class Removed(msgspec.Struct, kw_only=True):
    """An account of what was removed. sample_bytes: of samples, which take room until their blobs are gone.

    devices_passed_over: those whose rows could not be gone through; the log says why.
    """

    readings: int = 0
    alerts: int = 0
    samples: int = 0
    sample_bytes: int = 0
    blobs: int = 0
    devices_passed_over: int = 0

    def add(self, more: "Removed") -> None:
        """Count up."""
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(more, name))


class _Range(msgspec.Struct, frozen=True):
    """Sequences, both ends included, of which so many were removed, the youngest made then."""

    first: int
    last: int
    removed: int
    until_ms: int


def begin(connection: sa.Connection) -> None:
    """No label is given, and nothing new comes in, until this transaction ends; does nothing on SQLite."""
    locks.take_for_transaction(connection, locks.DECIDING)
    locks.take_for_transaction(connection, locks.TIDYING)


def device_ids(connection: sa.Connection) -> list[str]:
    """Who may have sent something."""
    return list(connection.execute(sa.select(devices.c.device_id).order_by(devices.c.device_id)).scalars())


def next_epoch(connection: sa.Connection, device_id: str, after: int) -> int | None:
    """The device's first epoch above `after` of which anything is here."""
    query = sa.select(sa.func.min(events.c.epoch)).where(events.c.device_id == device_id, events.c.epoch > after)
    return connection.execute(query).scalar()


def remove_some(
    connection: sa.Connection, epoch: tuple[str, int], keep: Keep, *, after: int, now_s: float
) -> tuple[Removed, int | None]:
    """Remove what is too old among the next few hundred of a device's epoch; returns where to go on, None at the end.

    The end is where all of them are too young to go: a backlog that came late is met again when it is old enough.
    """
    begin(connection)
    rows = _next_rows(connection, epoch, after)
    gone = [row for row in rows if _is_due(row, keep, now_s)]
    removed = Removed()
    if gone:
        removed = _remove(connection, epoch, gone, now_s=now_s)
        _note_ranges(connection, epoch, [row.sequence for row in rows], {row.sequence: row.at_ms for row in gone})
    shortest_s = keep.shortest_s
    if len(rows) < _AT_ONCE or shortest_s is None:
        return removed, None
    is_young = all(row.received_ms > (now_s - shortest_s) * 1000 for row in rows)
    return removed, None if is_young else rows[-1].sequence


def _next_rows(connection: sa.Connection, epoch: tuple[str, int], after: int) -> Sequence[Any]:
    follower = samples.alias("follower")
    own = _same(samples, events.c.sequence)
    next_sequence = sa.case((events.c.sequence < _LAST, events.c.sequence + 1))
    query = (
        sa.select(
            events.c.sequence,
            events.c.kind,
            events.c.at_ms,
            events.c.received_ms,
            samples.c.label,
            samples.c.sha256,
            samples.c.size_bytes,
            follower.c.sequence.label("follower"),
        )
        .join_from(events, samples, own, isouter=True)
        .join(follower, _same(follower, next_sequence), isouter=True)
        .where(events.c.device_id == epoch[0], events.c.epoch == epoch[1], events.c.sequence > after)
        .order_by(events.c.sequence)
        .limit(_AT_ONCE)
    )
    return connection.execute(query).all()


def _same(table: sa.FromClause, sequence: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    return sa.and_(
        table.c.device_id == events.c.device_id, table.c.epoch == events.c.epoch, table.c.sequence == sequence
    )


def _is_due(row: Any, keep: Keep, now_s: float) -> bool:
    age_s = {"reading": keep.readings_s, "alert": keep.alerts_s, "sample": keep.samples_s}[row.kind]
    if age_s is None or row.received_ms > (now_s - age_s) * 1000:
        return False
    return row.label is None and row.follower is None


def _remove(connection: sa.Connection, epoch: tuple[str, int], gone: Sequence[Any], *, now_s: float) -> Removed:
    sequences = [row.sequence for row in gone]
    for table in (samples, events):
        mine = sa.and_(table.c.device_id == epoch[0], table.c.epoch == epoch[1], table.c.sequence.in_(sequences))
        connection.execute(table.delete().where(mine))
    hashes = {row.sha256: row.size_bytes for row in gone if row.sha256 is not None}
    let_go(connection, hashes, now_s=now_s)
    counts = {kind: sum(row.kind == kind for row in gone) for kind in ("reading", "alert", "sample")}
    return Removed(
        readings=counts["reading"],
        alerts=counts["alert"],
        samples=counts["sample"],
        sample_bytes=sum(row.size_bytes or 0 for row in gone),
    )


def _note_ranges(connection: sa.Connection, epoch: tuple[str, int], arrived: list[int], gone: dict[int, int]) -> None:
    """Keep which sequences were removed, from the first to the last of each stretch of which all arrived.

    gone: when each that is removed was made.
    """
    stretch: list[int] = []
    for sequence in [*arrived, None]:
        if stretch and (sequence is None or sequence != stretch[-1] + 1):
            removed = [one for one in stretch if one in gone]
            if removed:
                until_ms = max(gone[one] for one in removed)
                _note_range(connection, epoch, _Range(removed[0], removed[-1], len(removed), until_ms))
            stretch = []
        if sequence is not None:
            stretch.append(sequence)


def _note_range(connection: sa.Connection, epoch: tuple[str, int], one: _Range) -> None:
    """One range, joined with those that it meets."""
    mine = sa.and_(tidied.c.device_id == epoch[0], tidied.c.epoch == epoch[1])
    met = sa.and_(mine, tidied.c.first <= min(one.last, _LAST - 1) + 1, tidied.c.last >= one.first - 1)
    for row in connection.execute(sa.select(tidied).where(met)).all():
        one = _Range(
            first=min(one.first, row.first),
            last=max(one.last, row.last),
            removed=one.removed + row.removed,
            until_ms=max(one.until_ms, row.until_ms),
        )
    connection.execute(tidied.delete().where(met))
    connection.execute(tidied.insert().values(device_id=epoch[0], epoch=epoch[1], **msgspec.structs.asdict(one)))


def removed_before(connection: sa.Connection, identities: Collection[Identity]) -> dict[Identity, int]:
    """Which of these were here, and those around them were removed by age: nothing of that is new.

    With when the youngest that was removed there was made, in milliseconds since 1970 by the device's clock.
    """
    names = sorted({device_id for device_id, _, _ in identities})
    if not names:
        return {}
    locks.share_for_transaction(connection, locks.TIDYING)
    found: dict[tuple[str, int], list[_Range]] = {}
    for device_id, epoch, *told in _ranges(connection, names):
        found.setdefault((device_id, epoch), []).append(_Range(*told))
    return {
        identity: one.until_ms
        for identity in (identities if found else ())
        for one in found.get(identity[:2], ())
        if one.first <= identity[2] <= one.last
    }


def _ranges(connection: sa.Connection, names: list[str]) -> Iterator[Any]:
    if len(names) == 1:
        yield from run_in(connection, _RANGES_OF_ONE, {"name": names[0]})
        return
    for start in range(0, len(names), _AT_ONCE):
        yield from connection.execute(_RANGES, {"names": names[start : start + _AT_ONCE]})


def removed_counts(connection: sa.Connection) -> dict[tuple[str, int], int]:
    """How many events were removed, by device and epoch."""
    query = sa.select(tidied.c.device_id, tidied.c.epoch, sa.func.sum(tidied.c.removed).label("removed"))
    grouped = query.group_by(tidied.c.device_id, tidied.c.epoch)
    return {(row.device_id, row.epoch): int(row.removed) for row in connection.execute(grouped)}


# ---- the bytes of samples


def let_go(connection: sa.Connection, hashes: Iterable[str], *, now_s: float) -> None:
    """Rows that named these bytes are gone: they may go, too, some time after."""
    rows = [{"sha256": sha256, "since_s": now_s, "is_gone": False} for sha256 in sorted(hashes)]
    insert_ignoring(connection, loose_blobs, rows)


def claim_blobs(connection: sa.Connection, hashes: Iterable[str]) -> set[str]:
    """Rows name these bytes now; returns those that were let go of meanwhile and must be put once more: they may be
    gone, also where the store of blobs said that it had failed.
    """
    wanted = sorted(set(hashes))
    mine = loose_blobs.c.sha256.in_(wanted)
    # On PostgreSQL it waits here for one who is removing them.
    found = connection.execute(sa.select(loose_blobs.c.sha256).where(mine).with_for_update()).scalars().all()
    if found:
        connection.execute(loose_blobs.delete().where(mine))
    return set(found)


def due_blobs(connection: sa.Connection, *, before_s: float, limit: int) -> tuple[list[str], bool]:
    """Bytes that no row names, let go of before then, and whether there may be more. The caller removes them and says
    so (`mark_gone`) before this transaction ends; what it cannot remove stays due.
    """
    begin(connection)
    is_due = sa.and_(loose_blobs.c.is_gone.is_(False), loose_blobs.c.since_s < before_s)
    due = sa.select(loose_blobs.c.sha256).where(is_due).order_by(loose_blobs.c.since_s).limit(limit)
    hashes = list(connection.execute(due.with_for_update()).scalars())
    named = set(connection.execute(sa.select(samples.c.sha256).where(samples.c.sha256.in_(hashes))).scalars())
    connection.execute(loose_blobs.delete().where(loose_blobs.c.sha256.in_(sorted(named))))
    return [sha256 for sha256 in hashes if sha256 not in named], len(hashes) == limit


def mark_gone(connection: sa.Connection, hashes: list[str], *, now_s: float) -> None:
    """These bytes were removed. The mark stays for a time (`forget_marks`): for one who had put them just before, and
    whose row comes after.
    """
    connection.execute(loose_blobs.update().where(loose_blobs.c.sha256.in_(hashes)).values(is_gone=True, since_s=now_s))


def forget_marks(connection: sa.Connection, *, before_s: float) -> None:
    """Of bytes that are gone for so long that nobody who put them before has his row still to come."""
    connection.execute(loose_blobs.delete().where(loose_blobs.c.is_gone, loose_blobs.c.since_s < before_s))
