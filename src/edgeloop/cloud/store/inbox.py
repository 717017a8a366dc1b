"""Events and samples as they came up, each once, and the labels that people gave."""

import re
import time
from collections.abc import Iterable

import msgspec
import sqlalchemy as sa

from edgeloop.bundle.archive import digest
from edgeloop.cloud.store import tidying
from edgeloop.cloud.store.database import insert_ignoring
from edgeloop.cloud.store.tables import events, samples
from edgeloop.contracts.api import EventCount, LabelRequest, ReadingView, SampleView
from edgeloop.contracts.codec import from_msgpack, to_msgpack
from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.messages import Alert, Event, Reading, Sample
from edgeloop.contracts.states import Reason

_TELLING = ("at_ms", "kind", "bundle", "label")
_KINDS = {Reading: "reading", Sample: "sample", Alert: "alert"}
_SAMPLE_ID = re.compile(r"(?P<device>[a-z0-9-]{1,63})\.(?P<epoch>[0-9]{1,19})\.(?P<sequence>[0-9]{1,19})")


def sample_key(sha256: str) -> str:
    """Where a sample's bytes are among the blobs."""
    return f"samples/{sha256[:2]}/{sha256}"


def add_events(connection: sa.Connection, batch: tuple[Event, ...]) -> int:
    """Insert what is new of a batch, idempotent on (device, epoch, sequence); returns how many were new.

    What was removed by age is not new.
    """
    received_ms = int(time.time() * 1000)
    seen = tidying.removed_before(connection, [(e.device_id, e.epoch, e.sequence) for e in batch])
    if seen:
        batch = tuple(event for event in batch if (event.device_id, event.epoch, event.sequence) not in seen)
    new = insert_ignoring(connection, events, [_event_row(event, received_ms) for event in batch])
    insert_ignoring(connection, samples, _sample_rows(connection, batch))
    return new


def reused(connection: sa.Connection, batch: tuple[Event, ...]) -> tuple[Event, ...]:
    """Those of a batch that is in the table now under whose identity another event is kept. To be asked only where
    something of it was there before: then a disk went back to an earlier state, or there are two of it.

    Told by what a hub of any version keeps alike: the time, the kind, the bundle and the label. Of what was removed by
    age there is only the time left: what was made later than all of it is another event.
    """
    identity = (events.c.device_id, events.c.epoch, events.c.sequence)
    wanted = [(event.device_id, event.epoch, event.sequence) for event in batch]
    told = (events.c[name] for name in _TELLING)
    query = sa.select(*identity, *told).where(sa.tuple_(*identity).in_(wanted))
    kept = {tuple(row[:3]): tuple(row[3:]) for row in connection.execute(query)}
    rows = ((event, _event_row(event, 0)) for event in batch)
    removed = tidying.removed_before(connection, set(wanted) - set(kept))
    return tuple(
        event
        for event, row in rows
        if (
            kept[identified] != tuple(row[name] for name in _TELLING)
            if (identified := (event.device_id, event.epoch, event.sequence)) in kept
            else event.at_ms > removed.get(identified, event.at_ms)
        )
    )


def claim_blobs(connection: sa.Connection, hashes: Iterable[str], *, now_s: float) -> set[str]:
    """After a batch with these samples was added: their bytes stay, but for those of a sample that was removed by age
    and came again. Returns those that must be put once more.
    """
    wanted = sorted(hashes)
    named = set(connection.execute(sa.select(samples.c.sha256).where(samples.c.sha256.in_(wanted))).scalars())
    tidying.let_go(connection, set(wanted) - named, now_s=now_s)
    return tidying.claim_blobs(connection, named)


def _sample_rows(connection: sa.Connection, batch: tuple[Event, ...]) -> list[dict[str, object]]:
    """Rows of the batch's samples, but for those whose identity an event of another kind had taken before."""
    rows = {(e.device_id, e.epoch, e.sequence): _sample_row(e, e.body) for e in batch if isinstance(e.body, Sample)}
    if not rows:
        return []
    identity = sa.tuple_(events.c.device_id, events.c.epoch, events.c.sequence)
    query = sa.select(events.c.device_id, events.c.epoch, events.c.sequence).where(
        events.c.kind == "sample", identity.in_(list(rows))
    )
    return [rows[row.device_id, row.epoch, row.sequence] for row in connection.execute(query)]


def _event_row(event: Event, received_ms: int) -> dict[str, object]:
    """A row in one go: the cloud makes 20,000 of them a second."""
    body = event.body
    made = body.prediction if isinstance(body, Reading) else None
    # A sample's bytes are a blob by now; the row keeps the rest.
    kept = msgspec.structs.replace(body, data=b"") if isinstance(body, Sample) else body
    return {
        "device_id": event.device_id,
        "epoch": event.epoch,
        "sequence": event.sequence,
        "at_ms": event.at_ms,
        "received_ms": received_ms,
        "kind": _KINDS[type(body)],
        "bundle": made and made.bundle,
        "label": made and made.label,
        "margin": made and made.margin,
        "novelty": made and made.novelty,
        "energy_z": made and made.energy_z,
        "payload": to_msgpack(kept),
    }


def _sample_row(event: Event, body: Sample) -> dict[str, object]:
    return {
        "device_id": event.device_id,
        "epoch": event.epoch,
        "sequence": event.sequence,
        "at_ms": event.at_ms,
        "source": body.source,
        "reason": body.reason,
        "media": body.media,
        "sha256": digest(body.data),
        "size_bytes": len(body.data),
    }


def count_events(
    connection: sa.Connection, *, after: str | None = None, most_devices: int | None = None
) -> list[EventCount]:
    """By device and epoch; of so many devices whose ids come after that one, or of all."""
    joined = sa.and_(
        samples.c.device_id == events.c.device_id,
        samples.c.epoch == events.c.epoch,
        samples.c.sequence == events.c.sequence,
    )
    query = (
        sa.select(
            events.c.device_id,
            events.c.epoch,
            sa.func.sum(sa.case((events.c.kind == "reading", 1), else_=0)).label("readings"),
            sa.func.sum(sa.case((events.c.kind == "sample", 1), else_=0)).label("samples"),
            sa.func.sum(sa.case((events.c.kind == "alert", 1), else_=0)).label("alerts"),
            sa.func.count(sa.distinct(events.c.sequence)).label("distinct"),
            sa.func.max(events.c.sequence).label("max_sequence"),
            sa.func.coalesce(sa.func.sum(samples.c.size_bytes), 0).label("sample_bytes"),
        )
        .join_from(events, samples, joined, isouter=True)
        .where(*_of_some(connection, after=after, most=most_devices))
        .group_by(events.c.device_id, events.c.epoch)
        .order_by(events.c.device_id, events.c.epoch)
    )
    removed = tidying.removed_counts(connection)
    return [
        EventCount(
            **{**row._mapping, "sample_bytes": int(row.sample_bytes)},
            removed=removed.get((row.device_id, row.epoch), 0),
        )
        for row in connection.execute(query)
    ]


def _of_some(connection: sa.Connection, *, after: str | None, most: int | None) -> list[sa.ColumnElement[bool]]:
    """What limits events to those of so many devices after one."""
    bounds = [] if after is None else [events.c.device_id > after]
    if most is not None:
        some = sa.select(events.c.device_id).where(*bounds).distinct().order_by(events.c.device_id).limit(most)
        last = max(connection.execute(some).scalars(), default="")
        bounds.append(events.c.device_id <= last)
    return bounds


def list_readings(connection: sa.Connection, device_id: str, *, after: int, limit: int) -> list[ReadingView]:
    """A device's readings in the order that it made them."""
    query = (
        sa.select(events)
        .where(events.c.device_id == device_id, events.c.kind == "reading")
        .order_by(events.c.epoch, events.c.sequence)
        .offset(after)
        .limit(limit)
    )
    return [
        ReadingView(
            row=after + 1 + index,
            epoch=row.epoch,
            sequence=row.sequence,
            at_ms=row.at_ms,
            received_ms=row.received_ms,
            reading=from_msgpack(row.payload, Reading, what="a stored reading"),
        )
        for index, row in enumerate(connection.execute(query))
    ]


def list_samples(
    connection: sa.Connection, *, device_id: str | None, labelled: bool | None, limit: int
) -> list[SampleView]:
    """Samples with their readings' predictions, newest first."""
    query = _samples_with_readings()
    if device_id is not None:
        query = query.where(samples.c.device_id == device_id)
    if labelled is not None:
        query = query.where(samples.c.label.is_not(None) if labelled else samples.c.label.is_(None))
    return [_sample_view(row) for row in connection.execute(query.order_by(samples.c.at_ms.desc()).limit(limit))]


def get_sample(connection: sa.Connection, sample_id: str) -> tuple[SampleView, str]:
    """One sample and its blob's key. Raises NotFound."""
    device_id, epoch, sequence = _parse_id(sample_id)
    query = _samples_with_readings().where(
        samples.c.device_id == device_id, samples.c.epoch == epoch, samples.c.sequence == sequence
    )
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"there is no sample {sample_id}")
    return _sample_view(row), sample_key(row.sha256)


def set_label(connection: sa.Connection, sample_id: str, request: LabelRequest, *, now_s: float) -> SampleView:
    """Keep a person's word on a sample. Raises NotFound."""
    device_id, epoch, sequence = _parse_id(sample_id)
    connection.execute(
        samples.update()
        .where(samples.c.device_id == device_id, samples.c.epoch == epoch, samples.c.sequence == sequence)
        .values(label=request.label, labelled_by=request.by, labelled_at_s=now_s)
    )
    return get_sample(connection, sample_id)[0]


def _samples_with_readings() -> sa.Select[tuple[object, ...]]:
    reading = events.alias("reading")
    same = sa.and_(
        reading.c.device_id == samples.c.device_id,
        reading.c.epoch == samples.c.epoch,
        reading.c.sequence == samples.c.sequence - 1,
    )
    return sa.select(samples, reading.c.bundle, reading.c.label.label("predicted"), reading.c.margin).join_from(
        samples, reading, same, isouter=True
    )


def _sample_view(row: sa.Row[tuple[object, ...]]) -> SampleView:
    return SampleView(
        sample_id=f"{row.device_id}.{row.epoch}.{row.sequence}",
        device_id=row.device_id,
        source=row.source,
        at_ms=row.at_ms,
        reason=Reason(row.reason),
        media=row.media,
        size_bytes=row.size_bytes,
        bundle=row.bundle or "",
        predicted=row.predicted,
        margin=row.margin or 0.0,
        label=row.label,
        labelled_by=row.labelled_by,
    )


def _parse_id(sample_id: str) -> tuple[str, int, int]:
    found = _SAMPLE_ID.fullmatch(sample_id)
    if found is None or max(int(found["epoch"]), int(found["sequence"])) >= 2**63:
        raise InvalidInput(f"{sample_id[:200]!r} is no sample id; expected DEVICE.EPOCH.SEQUENCE")
    return found["device"], int(found["epoch"]), int(found["sequence"])
