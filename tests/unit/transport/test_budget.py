import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.messages import Account, Alert, Amount, Body, Reading, Sample, SendReply, SendRequest
from edgeloop.contracts.prediction import Prediction
from edgeloop.contracts.states import Reason
from edgeloop.transport.budget import DOWNLOAD, Budget, Day
from edgeloop.transport.keep import Keep
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.sender import Sender
from edgeloop.transport.worth import ALERT, READING, SAMPLE

NOON_S = 1_800_014_400.0 - 1_800_014_400.0 % 86_400 + 43_200
DAY_S = 86_400.0


class Clock:
    """A wall clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = NOON_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Keep]:
    opened = Keep(tmp_path / "device.db")
    yield opened
    opened.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _reading() -> Reading:
    made = Prediction(
        label="a", score=0.5, margin=0.5, top=(), latency_ms=1.0, bundle="tiny@1.0.0", engine="litert",
        precision="int8",
    )  # fmt: skip
    return Reading(source="door", prediction=made)


def _sample(size_bytes: int = 1_000) -> Sample:
    return Sample(source="door", reason=Reason.NOVEL, media="image/png", data=bytes(size_bytes))


def test_what_is_spent_is_gone_until_the_next_day(keep: Keep, clock: Clock) -> None:
    budget = Budget(keep, limit_bytes=1_000, clock=clock)
    budget.spend(READING, {"tiny@1.0.0": 400})
    before = budget.left_bytes(READING)
    clock.now_s += DAY_S
    assert (before, budget.left_bytes(READING)) == (600, 1_000)


def test_day_begins_at_the_hour_that_is_said(keep: Keep, clock: Clock) -> None:
    budget = Budget(keep, limit_bytes=1_000, begins_h=15, clock=clock)
    budget.spend(READING, {"tiny@1.0.0": 400})
    assert budget.until_next_s() == 3 * 3600
    clock.now_s += 3 * 3600 - 1
    before = budget.left_bytes(READING)
    clock.now_s += 1
    assert (before, budget.left_bytes(READING)) == (600, 1_000)


def test_restart_does_not_begin_a_new_day(keep: Keep, clock: Clock) -> None:
    Budget(keep, limit_bytes=1_000, clock=clock).spend(SAMPLE, {"novel": 400})
    again = Budget(keep, limit_bytes=1_000, clock=clock)
    assert again.today().spent == {SAMPLE: {"novel": 400}}


def test_clock_that_was_wrong_stops_the_days_for_a_day_at_most(keep: Keep, clock: Clock) -> None:
    """By the time that the device runs: it was ahead by years, and is right again."""
    clock.now_s += 14 * 365 * DAY_S
    passed = Clock()
    Budget(keep, limit_bytes=1_000, clock=clock, passed_s=passed).spend(READING, {"x": 999})
    clock.now_s = NOON_S
    budget = Budget(keep, limit_bytes=1_000, clock=clock, passed_s=passed)
    left = []
    for _ in range(4):
        left.append(budget.left_bytes(READING))
        for moved in (clock, passed):
            moved.now_s += 0.75 * DAY_S
    budget.spend(READING, {"x": 400})
    clock.now_s += DAY_S
    assert (left, budget.left_bytes(READING)) == ([1, 1, 1_000, 1_000], 1_000)


@pytest.mark.parametrize("wrong_s", [5.0, NOON_S - DAY_S, NOON_S + 14 * 365 * DAY_S], ids=["1970", "yesterday", "2040"])
@pytest.mark.parametrize("restarts", [True, False])
def test_day_is_had_once_however_often_the_clock_jumps(
    keep: Keep, clock: Clock, wrong_s: float, restarts: bool
) -> None:
    budget = Budget(keep, limit_bytes=1_000, clock=clock)
    spent = 0
    for hour in range(20):
        for now_s in (wrong_s, NOON_S - 43_200 + 3600 * hour):
            clock.now_s = now_s
            budget = Budget(keep, limit_bytes=1_000, clock=clock) if restarts else budget
            left = budget.left_bytes(READING) or 0
            budget.spend(READING, {"x": left})
            spent += left
    # A day that was never there, and the one that is: no clock tells which of them that is.
    assert spent <= (2_000 if wrong_s > NOON_S or wrong_s == NOON_S - DAY_S else 1_000)


def test_device_that_was_off_for_a_night_has_a_new_day(keep: Keep, clock: Clock) -> None:
    Budget(keep, limit_bytes=1_000, clock=clock).spend(READING, {"x": 1_000})
    clock.now_s += DAY_S
    assert Budget(keep, limit_bytes=1_000, clock=clock).left_bytes(READING) == 1_000


def test_device_whose_clock_is_never_set_has_days_by_the_time_that_it_runs(keep: Keep, clock: Clock) -> None:
    clock.now_s = 5.0
    passed = Clock()
    budget = Budget(keep, limit_bytes=1_000, clock=clock, passed_s=passed)
    left = []
    for _ in range(3):
        budget.spend(READING, {"x": 1_000})
        passed.now_s += 1.1 * DAY_S
        clock.now_s += 1.1 * DAY_S
        left.append(budget.left_bytes(READING))
    assert left == [1_000, 1_000, 1_000]


def test_samples_get_half_of_a_day_at_most(keep: Keep, clock: Clock) -> None:
    budget = Budget(keep, limit_bytes=1_000, clock=clock)
    budget.spend(SAMPLE, {"novel": 450})
    assert (budget.left_bytes(SAMPLE), budget.left_bytes(READING)) == (50, 550)


def test_alerts_are_counted_and_take_from_the_others(keep: Keep, clock: Clock) -> None:
    budget = Budget(keep, limit_bytes=1_000, clock=clock)
    budget.spend(ALERT, {"drift": 900})
    assert (budget.left_bytes(READING), ALERT in budget.allowed_bytes()) == (100, False)


def test_what_a_day_spends_beyond_its_budget_the_next_ones_owe(keep: Keep, clock: Clock) -> None:
    budget = Budget(keep, limit_bytes=1_000, clock=clock)
    budget.spend(DOWNLOAD, {"files/a": 2_300})
    left = []
    for _ in range(3):
        clock.now_s += DAY_S
        left.append(budget.left_bytes(READING))
    assert left == [0, 700, 1_000]


@pytest.mark.parametrize(("size_bytes", "may"), [(400, True), (600, True), (601, False)])
def test_download_needs_room_for_all_of_it(keep: Keep, clock: Clock, size_bytes: int, may: bool) -> None:
    budget = Budget(keep, limit_bytes=2_000, clock=clock)
    budget.spend(READING, {"x": 1_400})
    assert budget.may_download(size_bytes) is may


def test_download_larger_than_a_day_begins_while_half_of_one_is_left(keep: Keep, clock: Clock) -> None:
    budget = Budget(keep, limit_bytes=1_000, clock=clock)
    budget.spend(READING, {"x": 500})
    at_half = budget.may_download(5_000)
    budget.spend(READING, {"x": 1})
    assert (at_half, budget.may_download(5_000)) == (True, False)


def test_without_a_limit_everything_goes_and_is_counted(keep: Keep, clock: Clock) -> None:
    budget = Budget(keep, clock=clock)
    budget.spend(SAMPLE, {"novel": 10**9})
    assert (budget.allowed_bytes(), budget.may_download(10**12), budget.today().spent_bytes()) == ({}, True, 10**9)


def test_report_names_the_classes_that_wait(keep: Keep, clock: Clock) -> None:
    budget = Budget(keep, limit_bytes=1_000, clock=clock)
    budget.spend(READING, {"x": 950})
    pending = Amount(rows=10, size_bytes=3_000)
    spending = budget.spending({READING: Account(pending=pending), SAMPLE: Account()})
    assert (spending.waits, spending.spent, spending.limit_bytes) == ((READING,), {READING: 950}, 1_000)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.text(max_size=3), st.integers(0, 10**6)), max_size=200))
def test_day_adds_up_however_many_reasons_there_are(spends: list[tuple[str, str, int]]) -> None:
    day = Day(number=1)
    for kind, reason, size_bytes in spends:
        day = day.plus(kind, {reason: size_bytes})
    assert day.spent_bytes() == sum(size_bytes for _, _, size_bytes in spends)
    assert all(len(reasons) <= 65 for reasons in day.spent.values())


# ---- sending within it


class Wireless:
    """An uplink's `send` whose batches weigh what their data weighs."""

    def __init__(self) -> None:
        self.traffic_bytes: Counter[str] = Counter()
        self.taken: list[Body] = []
        self.is_away = False

    async def send(self, request: SendRequest) -> SendReply:
        """Take a batch."""
        self.traffic_bytes["send"] += sum(
            len(event.body.data) if isinstance(event.body, Sample) else 100 for event in request.events
        )
        if self.is_away:
            raise Unavailable("the hub is away")
        self.taken += [event.body for event in request.events]
        return SendReply(accepted=len(request.events), repeated=0)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox(tmp_path / "outbox.db", "camera-1")
    yield opened
    opened.close()


def _send_all(sender: Sender) -> None:
    async def until_idle() -> None:
        while await sender.send_once():
            pass

    asyncio.run(until_idle())


def _kinds(bodies: list[Body]) -> Counter[str]:
    return Counter(type(body).__name__ for body in bodies)


def test_readings_and_samples_wait_when_the_day_is_spent_and_alerts_go(
    outbox: Outbox, keep: Keep, clock: Clock
) -> None:
    link, budget = Wireless(), Budget(keep, limit_bytes=10_000, clock=clock)
    sender = Sender(outbox, link, budget=budget)  # type: ignore[arg-type]
    outbox.append([_reading() for _ in range(200)], at_ms=0)
    outbox.append([_sample() for _ in range(20)], at_ms=0)
    _send_all(sender)
    first_day = _kinds(link.taken)
    assert budget.today().spent_bytes() <= 10_000
    assert outbox.stats().pending_rows > 0
    outbox.append([Alert(what="drift", detail="")], at_ms=0)
    _send_all(sender)
    assert (_kinds(link.taken) - first_day) == {"Alert": 1}
    assert set(budget.spending(outbox.stats().accounts).waits) <= {READING, SAMPLE}
    for _ in range(10):
        clock.now_s += DAY_S
        _send_all(sender)
    assert _kinds(link.taken) == {"Reading": 200, "Sample": 20, "Alert": 1}


def test_each_spend_has_its_reason(outbox: Outbox, keep: Keep, clock: Clock) -> None:
    link, budget = Wireless(), Budget(keep, clock=clock)
    outbox.append([_reading(), _sample(), Alert(what="drift", detail="")], at_ms=0)
    _send_all(Sender(outbox, link, budget=budget))  # type: ignore[arg-type]
    day = budget.today()
    assert {kind: set(reasons) for kind, reasons in day.spent.items()} == {
        READING: {"tiny@1.0.0"}, SAMPLE: {"novel"}, ALERT: {"drift"},
    }  # fmt: skip
    assert day.spent_bytes() == pytest.approx(link.traffic_bytes["send"], abs=3)


def test_batch_that_did_not_arrive_is_paid_for_too(outbox: Outbox, keep: Keep, clock: Clock) -> None:
    link, budget = Wireless(), Budget(keep, limit_bytes=10_000, clock=clock)
    link.is_away = True
    outbox.append([_reading()], at_ms=0)
    with pytest.raises(Unavailable):
        asyncio.run(Sender(outbox, link, budget=budget).send_once())  # type: ignore[arg-type]
    assert budget.today().spent_bytes() == 100


def test_sample_too_large_for_what_is_left_does_not_hold_up_what_fits(outbox: Outbox, keep: Keep, clock: Clock) -> None:
    link, budget = Wireless(), Budget(keep, limit_bytes=10_000, clock=clock)
    outbox.append([_sample(9_000), _reading(), _sample(500)], at_ms=0)
    _send_all(Sender(outbox, link, budget=budget))  # type: ignore[arg-type]
    assert [len(body.data) if isinstance(body, Sample) else 0 for body in link.taken] == [0, 500]
