"""An outbox's accounts, exact to the row, against a model of a few lines that knows no SQL."""

import contextlib
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgeloop.contracts.messages import Account, Alert, Body, Event, Reading, Sample
from edgeloop.contracts.prediction import Prediction
from edgeloop.contracts.states import Reason
from edgeloop.transport.bounding import ROW_BYTES
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.worth import ALERT, LAST_AUDIT, READING, SAMPLE, Bounds

OWN = "camera-1"
LABELS = ("a", "b", "c")
FATES = ("pending", "acknowledged", "evicted", "expired", "rejected", "dropped")


def reading(margin: float = 0.5, *, label: str | None = "a", source: str = "door") -> Reading:
    made = Prediction(
        label=label, score=0.5, margin=margin, top=(), latency_ms=1.0, bundle="tiny@1.0.0", engine="litert",
        precision="int8",
    )  # fmt: skip
    return Reading(source=source, prediction=made)


def sample(size_bytes: int = 10, reason: Reason = Reason.UNSURE) -> Sample:
    return Sample(source="door", reason=reason, media="image/png", data=bytes(size_bytes))


def add_up(accounts: dict[str, Account]) -> bool:
    return all(
        one.appended.rows == sum(getattr(one, fate).rows for fate in FATES)
        and one.appended.size_bytes == sum(getattr(one, fate).size_bytes for fate in FATES)
        for one in accounts.values()
    )


def held(outbox: Outbox) -> dict[tuple[int, str], int]:
    """Bytes that wait by tier and device, as memory has them."""
    return {key: size_bytes for key, size_bytes in outbox._ledger._held.items() if size_bytes}


def recount(path: Path) -> dict[tuple[int, str], int]:
    """The same, out of the file."""
    query = "SELECT tier, device_id, sum(size_bytes) FROM events WHERE acknowledged_ms IS NULL GROUP BY 1, 2"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return {(tier, device_id): size_bytes for tier, device_id, size_bytes in connection.execute(query)}


def waiting(outbox: Outbox) -> list[Event]:
    return [one.event for one in outbox.pending(limit=10**6, max_bytes=10**9)]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


# ---- the model


@dataclass
class Entry:
    """A row, as the model sees it. since_s: when it came."""

    device_id: str
    sequence: int
    kind: str
    value: float
    label: str | None
    size_bytes: int
    since_s: float
    is_last_audit: bool = False

    @property
    def tier(self) -> int:
        return 2 if self.kind == ALERT else int(self.is_last_audit)


@dataclass
class Model:
    """Lists instead of tables."""

    max_bytes: int
    pending: list[Entry] = field(default_factory=list)
    record: list[Entry] = field(default_factory=list)
    aside: list[Entry] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def guard(self, device_id: str, label: str) -> None:
        mine = [one for one in self.pending if (one.device_id, one.label) == (device_id, label)]
        held = sum(one.size_bytes for one in self.pending if one.is_last_audit and one.device_id == device_id)
        if mine and not any(one.is_last_audit for one in mine):
            newest = mine[-1]
            newest.is_last_audit = held + newest.size_bytes <= self.max_bytes // 4

    def leave(self, one: Entry, fate: str) -> None:
        self.pending.remove(one)
        self.counts[one.kind, fate] += 1
        if one.is_last_audit:
            one.is_last_audit = False
            self.guard(one.device_id, one.label or "")

    def used(self) -> int:
        return sum(one.size_bytes + ROW_BYTES for one in (*self.pending, *self.record, *self.aside))

    def make_room(self) -> None:
        while self.used() > self.max_bytes and self.record:
            self.record.pop(0)
        while self.used() > self.max_bytes and self.aside:
            kind = self.aside.pop(0).kind
            self.counts[kind, "evicted"] += 1
            self.counts[kind, "rejected"] -= 1
        while self.used() > self.max_bytes:
            tier = min(one.tier for one in self.pending)
            held: Counter[str] = Counter()
            for one in self.pending:
                held[one.device_id] += one.size_bytes * (one.tier == tier)
            most = max(sorted(held), key=lambda device: held[device])
            mine = [one for one in self.pending if one.tier == tier and one.device_id == most]
            self.leave(min(mine, key=lambda one: one.value), "evicted")


class Accounting(RuleBasedStateMachine):
    """Whatever is done to it, an outbox holds what the model holds, and its accounts add up."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="accounts"))
        self.clock = Clock()
        self.sequences: Counter[str] = Counter()

    @initialize(max_bytes=st.sampled_from([2_000, 6_000, 20_000]))
    def begin(self, max_bytes: int) -> None:
        self.bounds = Bounds(max_bytes=max_bytes, keep_free_bytes=0, ttl_s={READING: 3_600.0, SAMPLE: 7_200.0})
        self.model = Model(max_bytes)
        self.outbox = self.opened()
        self.told = 0

    def opened(self) -> Outbox:
        return Outbox(self.folder / "outbox.db", OWN, bounds=self.bounds, clock_s=self.clock)

    def take(self, device_id: str, bodies: list[Body], sizes: list[int]) -> None:
        label = None
        for body, size_bytes in zip(bodies, sizes, strict=True):
            self.sequences[device_id] += 1
            kind, value, audited = ALERT, 100.0, None
            if isinstance(body, Reading):
                kind, value, label = READING, 10.0 * (1.0 - body.prediction.margin), body.prediction.label
            elif isinstance(body, Sample):
                kind, value = SAMPLE, 50.0
                audited = (label or "") if body.reason is Reason.AUDIT else None
            entry = Entry(device_id, self.sequences[device_id], kind, value, audited, size_bytes, self.clock.now_s)
            self.model.pending.append(entry)
            self.model.counts[kind, "appended"] += 1
            if audited is not None:
                self.model.guard(device_id, audited)
        self.model.make_room()

    def sizes(self, device_id: str, bodies: list[Body], *, at_ms: int = 0) -> list[int]:
        from edgeloop.contracts.codec import to_msgpack

        epoch = self.outbox.epoch if device_id == OWN else 3
        first = self.sequences[device_id] + 1
        return [
            len(to_msgpack(Event(device_id=device_id, epoch=epoch, sequence=first + i, at_ms=at_ms, body=body)))
            for i, body in enumerate(bodies)
        ]

    @rule(
        device_id=st.sampled_from([OWN, OWN, "b", "c"]),
        what=st.lists(
            st.tuples(
                st.sampled_from(["reading", "pair", "audit", "audit", "alert"]),
                st.sampled_from([0.0, 0.25, 0.5, 1.0]),
                st.sampled_from(LABELS),
                st.sampled_from([0, 50, 700]),
            ),
            min_size=1,
            max_size=6,
        ),
    )
    def comes(self, device_id: str, what: list[tuple[str, float, str, int]]) -> None:
        bodies: list[Body] = []
        for kind, margin, label, size_bytes in what:
            if kind == "alert":
                bodies.append(Alert(what="drift", detail="x" * size_bytes))
                continue
            bodies.append(reading(margin, label=label))
            if kind != "reading":
                bodies.append(sample(size_bytes, Reason.AUDIT if kind == "audit" else Reason.UNSURE))
        sizes = self.sizes(device_id, bodies)
        if device_id == OWN:
            self.outbox.append(bodies, at_ms=0)
        else:
            first = self.sequences[device_id] + 1
            events = [
                Event(device_id=device_id, epoch=3, sequence=first + i, at_ms=0, body=body)
                for i, body in enumerate(bodies)
            ]
            assert self.outbox.accept(events) == (len(events), 0)
        self.take(device_id, bodies, sizes)

    @rule(limit=st.sampled_from([1, 4, 30]), oldest_first=st.booleans())
    def is_sent(self, limit: int, oldest_first: bool) -> None:
        queued = self.outbox.pending(limit=limit, max_bytes=10**6, oldest_first=oldest_first)
        self.outbox.acknowledge([one.row for one in queued])
        for one in queued:
            entry = self.entry(one.event)
            self.model.leave(entry, "acknowledged")
            self.model.record.append(entry)
        # The record is forgotten in the order of rows, not of acknowledgements.
        self.model.record.sort(key=lambda one: self.order[one.device_id, one.sequence])

    @rule()
    def is_set_aside(self) -> None:
        queued = self.outbox.pending(limit=1, max_bytes=10**6)
        total = self.model.counts["", "aside"]
        self.outbox.set_aside({one.row: "broken" for one in queued})
        for one in queued:
            entry = self.entry(one.event)
            self.model.leave(entry, "rejected")
            self.model.aside.append(entry)
            self.model.counts["", "aside"] += 1
            if (total + 1).bit_length() > total.bit_length():
                detail = f"{total + 1} so far; the last, {entry.kind} of {entry.device_id}: broken"
                alert = Alert(what="set_aside", detail=detail)
                self.take(OWN, [alert], self.sizes(OWN, [alert], at_ms=1_800_000_000_000))

    @precondition(lambda self: self.model.aside)
    @rule(is_retried=st.booleans())
    def is_settled(self, is_retried: bool) -> None:
        row = self.outbox.aside()[0].row
        entry = self.model.aside.pop(0)
        self.model.counts[entry.kind, "rejected"] -= 1
        if not is_retried:
            assert self.outbox.drop([row]) == 1
            self.model.counts[entry.kind, "dropped"] += 1
            return
        assert self.outbox.retry([row]) == 1
        entry.since_s = self.clock.now_s
        if entry.label is not None:
            before = [one for one in self.model.record if one.device_id == entry.device_id]
            known = any(
                one.sequence == entry.sequence - 1
                for one in (*before, *self.model.pending)
                if one.kind == READING and one.device_id == entry.device_id
            )
            entry.label = entry.label if known else ""
        self.model.pending.append(entry)
        if entry.label is not None:
            self.model.guard(entry.device_id, entry.label)
        self.model.make_room()

    @rule(hours=st.sampled_from([0.25, 1.5]))
    def passes(self, hours: float) -> None:
        self.clock.now_s += hours * 3600
        self.outbox.expire()
        for kind, ttl_s in self.bounds.ttl_s.items():
            for one in [one for one in self.model.pending if one.kind == kind]:
                if self.clock.now_s - one.since_s > ttl_s:
                    self.model.leave(one, "expired")

    @rule()
    def is_opened_anew(self) -> None:
        self.outbox.close()
        self.outbox = self.opened()

    def entry(self, event: Event) -> Entry:
        identity = (event.device_id, event.sequence)
        return next(one for one in self.model.pending if (one.device_id, one.sequence) == identity)

    @property
    def order(self) -> dict[tuple[str, int], int]:
        return {(e.device_id, e.sequence): place for place, e in enumerate(self.outbox.events())}

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        if not hasattr(self, "model"):
            return
        held = sorted((e.device_id, e.sequence) for e in waiting(self.outbox))
        assert held == sorted((one.device_id, one.sequence) for one in self.model.pending)
        kept = sorted((e.device_id, e.sequence) for e in self.outbox.events())
        assert kept == sorted((one.device_id, one.sequence) for one in (*self.model.pending, *self.model.record))
        assert [one.sequence for one in self.outbox.aside()] == [one.sequence for one in self.model.aside]

    @invariant()
    def accounts_are_exact(self) -> None:
        if not hasattr(self, "model"):
            return
        accounts = self.outbox.stats().accounts
        assert add_up(accounts)
        for kind, account in accounts.items():
            pending = [one for one in self.model.pending if one.kind == kind]
            assert (account.pending.rows, account.pending.size_bytes) == (
                len(pending),
                sum(one.size_bytes for one in pending),
            )
            for fate in ("appended", "acknowledged", "evicted", "expired", "rejected", "dropped"):
                assert getattr(account, fate).rows == self.model.counts[kind, fate], (kind, fate)

    @invariant()
    def memory_knows_what_each_tier_holds(self) -> None:
        if hasattr(self, "model"):
            assert held(self.outbox) == recount(self.folder / "outbox.db")

    @invariant()
    def stays_within_its_bound(self) -> None:
        if hasattr(self, "model"):
            assert self.model.used() <= self.model.max_bytes

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            self.outbox.close()
        shutil.rmtree(self.folder)


TestAccounting = Accounting.TestCase
TestAccounting.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


# ---- what each tier holds


def _all_acknowledged(outbox: Outbox) -> None:
    outbox.acknowledge([one.row for one in outbox.pending(limit=10, max_bytes=10**6)])


def _all_set_aside(outbox: Outbox) -> None:
    outbox.set_aside({one.row: "no" for one in outbox.pending(limit=10, max_bytes=10**6)})


def _all_expired(outbox: Outbox) -> None:
    clock = outbox._clock_s
    assert isinstance(clock, Clock)
    clock.now_s += 3601
    outbox.expire()


@pytest.mark.parametrize("leave", [_all_acknowledged, _all_set_aside, _all_expired])
def test_audit_samples_of_one_label_that_leave_together_leave_nothing_behind(
    tmp_path: Path, clock: Clock, leave: Callable[[Outbox], None]
) -> None:
    bounds = Bounds(ttl_s={READING: 3600.0, SAMPLE: 3600.0})
    outbox = Outbox(tmp_path / "o.db", OWN, bounds=bounds, clock_s=clock)
    outbox.append([reading(), sample(700, Reason.AUDIT)] * 3, at_ms=0)
    leave(outbox)
    found, counted = held(outbox), recount(tmp_path / "o.db")
    outbox.close()
    assert found == counted


@pytest.mark.timeout(30)  # without the mend it goes on for ever
def test_account_that_is_wrong_is_read_anew_and_holds_up_nobody(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", OWN, bounds=Bounds(max_bytes=5_000, keep_free_bytes=0))
    outbox.append([Alert(what="drift", detail="x" * 500)] * 6, at_ms=0)
    outbox._ledger._held[LAST_AUDIT, "nobody"] = 1_000
    outbox.append([Alert(what="drift", detail="x" * 500)] * 6, at_ms=0)
    outbox.append([Alert(what="drift", detail="x" * 500)], at_ms=0)
    found, counted, evicted = held(outbox), recount(tmp_path / "o.db"), outbox.stats().evicted_rows
    outbox.close()
    assert (found, evicted) == (counted, 7)


# ---- ten times its cap


@pytest.fixture(scope="module")
def overrun(tmp_path_factory: pytest.TempPathFactory, turn: int) -> Iterator[tuple[Outbox, Counter[str]]]:
    """An outbox after ten times what it holds, alerts among readings and samples, and what came by class."""
    path = tmp_path_factory.mktemp("overrun") / "outbox.db"
    chance = random.Random(turn)
    outbox = Outbox(path, OWN, bounds=Bounds(max_bytes=100_000, keep_free_bytes=0))
    came: Counter[str] = Counter()
    came_bytes, number = 0, 0
    while came_bytes < 1_000_000:
        bodies: list[Body] = [reading(number % 11 / 10, label=LABELS[number % 3], source=f"{number:06d}")]
        if number % 5 == 0:
            bodies.append(sample(chance.randint(500, 3_500), Reason.AUDIT if number % 25 == 0 else Reason.NOVEL))
        if number % 20 == 0:
            bodies.append(Alert(what="drift", detail=f"{number}"))
        outbox.append(bodies, at_ms=number)
        came.update(type(body).__name__.lower() for body in bodies)
        stats = outbox.stats()
        came_bytes = sum(one.appended.size_bytes for one in stats.accounts.values())
        assert add_up(stats.accounts)
        number += 1
    yield outbox, came
    outbox.close()


def test_ten_times_its_cap_is_accounted_for_to_the_row(overrun: tuple[Outbox, Counter[str]]) -> None:
    outbox, came = overrun
    accounts = outbox.stats().accounts
    held = Counter(type(event.body).__name__.lower() for event in waiting(outbox))
    assert {kind: one.appended.rows for kind, one in accounts.items()} == came
    assert {kind: one.pending.rows for kind, one in accounts.items()} == {kind: held[kind] for kind in came}
    assert {kind: one.evicted.rows for kind, one in accounts.items()} == {
        kind: came[kind] - held[kind] for kind in came
    }


def test_alerts_are_whole_while_anything_else_was_there_to_give(overrun: tuple[Outbox, Counter[str]]) -> None:
    outbox, came = overrun
    alerts = outbox.stats().accounts[ALERT]
    assert (alerts.pending.rows, alerts.evicted.rows) == (came["alert"], 0)
    assert outbox.stats().accounts[READING].evicted.rows > 0


def test_one_audit_sample_of_each_label_is_still_there(overrun: tuple[Outbox, Counter[str]]) -> None:
    outbox, _ = overrun
    events = {(event.epoch, event.sequence): event.body for event in outbox.events()}
    audits = [
        event for event in outbox.events() if isinstance(event.body, Sample) and event.body.reason is Reason.AUDIT
    ]
    # The sure readings before them were evicted, the labels stand in the queue.
    assert len(audits) >= len(LABELS)
    assert len(events) == outbox.stats().pending_rows


def test_alerts_alone_give_way_to_alerts(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", OWN, bounds=Bounds(max_bytes=5_000, keep_free_bytes=0))
    for number in range(100):
        outbox.append([Alert(what="drift", detail=f"{number:04d}")], at_ms=0)
    account = outbox.stats().accounts[ALERT]
    held = [event.body.detail for event in waiting(outbox) if isinstance(event.body, Alert)]
    outbox.close()
    assert held == [f"{number:04d}" for number in range(100 - len(held), 100)]
    assert account.pending.rows + account.evicted.rows == 100


# ---- several devices


def _events(device_id: str, bodies: list[Body], *, first: int = 1) -> list[Event]:
    return [
        Event(device_id=device_id, epoch=1, sequence=first + i, at_ms=0, body=body) for i, body in enumerate(bodies)
    ]


def test_device_that_floods_a_node_pushes_nobody_out_but_itself(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", "node-1", bounds=Bounds(max_bytes=50_000, keep_free_bytes=0))
    outbox.accept(_events("quiet", [reading(1.0)] * 20))
    for start in range(1, 1001, 50):
        outbox.accept(_events("noisy", [reading(0.0)] * 50, first=start))
    quiet, noisy = (outbox.stats(name).accounts[READING] for name in ("quiet", "noisy"))
    outbox.close()
    assert (quiet.pending.rows, quiet.evicted.rows) == (20, 0)
    assert noisy.evicted.rows == 1000 - noisy.pending.rows > 800


def test_samples_of_one_device_do_not_push_out_the_readings_of_another(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", "node-1", bounds=Bounds(max_bytes=50_000, keep_free_bytes=0))
    outbox.accept(_events("quiet", [reading(1.0)] * 20))
    outbox.accept(_events("noisy", [sample(1_000)] * 100))
    accounts = outbox.stats("quiet").accounts
    outbox.close()
    assert accounts[READING].pending.rows == 20


def test_alert_of_a_device_that_floods_still_outlives_the_readings_of_others(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", "node-1", bounds=Bounds(max_bytes=20_000, keep_free_bytes=0))
    outbox.accept(_events("noisy", [Alert(what="drift", detail="")]))
    outbox.accept(_events("noisy", [reading(0.0)] * 200, first=2))
    assert outbox.stats("noisy").accounts[ALERT].evicted.rows == 0
    outbox.close()


# ---- age


def test_reading_that_waited_too_long_is_given_up_and_counted(tmp_path: Path, clock: Clock) -> None:
    bounds = Bounds(ttl_s={READING: 3600.0})
    outbox = Outbox(tmp_path / "o.db", OWN, bounds=bounds, clock_s=clock)
    outbox.append([reading(), sample(), Alert(what="a", detail="")], at_ms=0)
    clock.now_s += 3601
    outbox.expire()
    accounts = outbox.stats().accounts
    outbox.close()
    assert [accounts[kind].expired.rows for kind in (READING, SAMPLE, ALERT)] == [1, 0, 0]


def test_time_that_a_device_is_off_ages_nothing(tmp_path: Path, clock: Clock) -> None:
    bounds = Bounds(ttl_s={READING: 3600.0})
    first = Outbox(tmp_path / "o.db", OWN, bounds=bounds, clock_s=clock)
    first.append([reading()], at_ms=0)
    clock.now_s += 1800
    first.append([Alert(what="a", detail="")], at_ms=0)
    first.close()
    later = Clock()  # a monotonic clock begins anew with the machine
    again = Outbox(tmp_path / "o.db", OWN, bounds=bounds, clock_s=later)
    later.now_s += 1790
    again.expire()
    before = again.stats().expired_rows
    later.now_s += 80
    again.expire()
    after = again.stats().expired_rows
    again.close()
    assert (before, after) == (0, 1)


def test_device_whose_clock_jumps_by_decades_loses_nothing(tmp_path: Path, clock: Clock) -> None:
    outbox = Outbox(tmp_path / "o.db", OWN, clock_s=clock)
    outbox.append([reading()], at_ms=0)
    outbox.append([reading()], at_ms=1_800_000_000_000)
    clock.now_s += 120
    outbox.expire()
    assert outbox.stats().pending_rows == 2
    outbox.close()
