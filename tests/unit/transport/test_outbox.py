import contextlib
import math
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.contracts.messages import Alert, Body, Event, Reading, Sample
from edgeloop.contracts.prediction import Prediction
from edgeloop.contracts.states import Reason
from edgeloop.transport.bounding import ROW_BYTES
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.worth import Bounds

_APPEND_FOR_EVER = """
import sys
from pathlib import Path
from edgeloop.contracts.messages import Alert
from edgeloop.transport.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]), "camera-1")
while True:
    for sequence in outbox.append([Alert(what="a", detail="b" * 100)] * 3, at_ms=0):
        print(sequence, flush=True)
"""

# Each failed append is one that had to make room first. SQLite asks for the limit again at every write.
_APPEND_WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.messages import Alert
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.worth import Bounds
outbox = Outbox(Path(sys.argv[1]), "camera-1", bounds=Bounds(max_bytes=20_000))
alert = Alert(what="a", detail="b" * 1000)
while not outbox.stats().evicted_rows:
    outbox.append([alert], at_ms=0)
before = [event.sequence for event in outbox.events()]
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
for _ in range(5):
    try:
        outbox.append([alert], at_ms=0)
    except Unavailable:
        print("refused")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("kept" if before == [event.sequence for event in outbox.events()] else "lost")
for _ in range(10):
    outbox.append([alert], at_ms=0)
print(outbox.stats().pending_bytes)
"""


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox(tmp_path / "outbox.db", "camera-1")
    yield opened
    opened.close()


def _reading(margin: float = 0.5, *, source: str = "door") -> Reading:
    prediction = Prediction(
        label="a", score=0.5, margin=margin, top=(), latency_ms=1.0, bundle="tiny@1.0.0", engine="litert",
        precision="int8",
    )  # fmt: skip
    return Reading(source=source, prediction=prediction)


def _alert(what: str = "drift") -> Alert:
    return Alert(what=what, detail="d")


def _sample(size_bytes: int = 10, reason: Reason = Reason.UNSURE) -> Sample:
    return Sample(source="door", reason=reason, media="image/png", data=bytes(size_bytes))


def _event(sequence: int, *, device_id: str = "sensor-7", epoch: int = 3, body: Body | None = None) -> Event:
    return Event(device_id=device_id, epoch=epoch, sequence=sequence, at_ms=5, body=body or _alert())


def _pending(outbox: Outbox) -> list[Event]:
    return [one.event for one in outbox.pending(limit=1000, max_bytes=10**9)]


def _bounded(tmp_path: Path, *, rows: int, body: Body) -> Outbox:
    """An outbox with room for this many of this event."""
    probe = Outbox(tmp_path / "probe.db", "camera-1")
    probe.append([body], at_ms=0)
    size_bytes = probe.stats().pending_bytes
    probe.close()
    return Outbox(tmp_path / "bounded.db", "camera-1", bounds=Bounds(max_bytes=(size_bytes + ROW_BYTES) * rows + rows))


# ---- appending


def test_first_sequence_is_one(outbox: Outbox) -> None:
    assert outbox.append([_alert()], at_ms=0) == [1]


def test_sequences_follow_one_another(outbox: Outbox) -> None:
    assert [*outbox.append([_alert()] * 2, at_ms=0), *outbox.append([_alert()] * 3, at_ms=0)] == [1, 2, 3, 4, 5]


def test_appended_event_bears_device_epoch_and_time(outbox: Outbox) -> None:
    outbox.append([_alert()], at_ms=77)
    assert _pending(outbox) == [Event(device_id="camera-1", epoch=outbox.epoch, sequence=1, at_ms=77, body=_alert())]


def test_appending_nothing_adds_nothing(outbox: Outbox) -> None:
    assert (outbox.append([], at_ms=0), outbox.stats().pending_rows) == ([], 0)


@pytest.mark.parametrize("body", [_reading(), _sample(), _alert()], ids=lambda body: type(body).__name__)
def test_every_kind_of_event_comes_back_as_it_was(outbox: Outbox, body: Body) -> None:
    outbox.append([body], at_ms=0)
    assert [event.body for event in outbox.events()] == [body]


def test_another_outbox_has_another_epoch(tmp_path: Path, outbox: Outbox) -> None:
    other = Outbox(tmp_path / "other.db", "camera-1")
    other.close()
    assert other.epoch != outbox.epoch


def test_two_threads_appending_leave_no_gap(outbox: Outbox) -> None:
    got: list[list[int]] = [[], []]

    def append(into: list[int]) -> None:
        for _ in range(40):
            into.extend(outbox.append([_alert()] * 3, at_ms=0))

    threads = [threading.Thread(target=append, args=(into,)) for into in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got[0] + got[1]) == [event.sequence for event in outbox.events()] == list(range(1, 241))


def test_last_source_is_that_of_the_newest_own_reading(outbox: Outbox) -> None:
    outbox.append([_reading(source="front"), _reading(source="back"), _alert()], at_ms=0)
    outbox.accept([_event(1, body=_reading(source="elsewhere"))])
    assert outbox.last_source() == "back"


def test_last_source_of_an_outbox_without_readings_is_empty(outbox: Outbox) -> None:
    outbox.append([_alert()], at_ms=0)
    assert outbox.last_source() == ""


# ---- reopening


def test_reopened_outbox_keeps_its_epoch(tmp_path: Path) -> None:
    epochs = []
    for _ in range(2):
        outbox = Outbox(tmp_path / "o.db", "camera-1")
        epochs.append(outbox.epoch)
        outbox.close()
    assert epochs[0] == epochs[1]


def test_reopened_outbox_goes_on_with_the_sequence(tmp_path: Path) -> None:
    first = Outbox(tmp_path / "o.db", "camera-1")
    first.append([_alert()] * 3, at_ms=0)
    first.close()
    again = Outbox(tmp_path / "o.db", "camera-1")
    assert again.append([_alert()], at_ms=0) == [4]
    again.close()


def test_reopened_outbox_still_holds_what_was_not_sent(tmp_path: Path) -> None:
    first = Outbox(tmp_path / "o.db", "camera-1")
    first.append([_alert("a"), _alert("b")], at_ms=0)
    first.acknowledge([1])
    first.close()
    again = Outbox(tmp_path / "o.db", "camera-1")
    assert [event.sequence for event in _pending(again)] == [2]
    again.close()


def test_sequence_is_not_used_again_after_its_row_was_forgotten(tmp_path: Path) -> None:
    first = _bounded(tmp_path, rows=1, body=_reading(1.0))
    first.append([_reading(1.0)], at_ms=0)
    first.append([_reading(1.0)], at_ms=0)
    first.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "bounded.db")) as connection, connection:
        connection.execute("DELETE FROM events")
    connection.close()
    again = Outbox(tmp_path / "bounded.db", "camera-1")
    assert again.append([_alert()], at_ms=0) == [3]
    again.close()


def test_kill_loses_nothing_that_was_durable(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with subprocess.Popen([sys.executable, "-c", _APPEND_FOR_EVER, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(100)]
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.stdout.read().decode().splitlines(keepends=True) if line.endswith("\n")]
    again = Outbox(path, "camera-1")
    kept = [event.sequence for event in again.events()]
    again.close()
    assert (told == kept[: len(told)], kept) == (True, list(range(1, len(kept) + 1)))


def test_file_that_is_no_outbox_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "o.db").write_bytes(b"this is no database, but long enough to be looked at" * 100)
    with pytest.raises(Corrupt, match=r"o\.db"):
        Outbox(tmp_path / "o.db", "camera-1")


# ---- events of others


def test_events_of_others_are_taken(outbox: Outbox) -> None:
    assert outbox.accept([_event(1), _event(2)]) == (2, 0)


def test_repeated_event_is_ignored(outbox: Outbox) -> None:
    outbox.accept([_event(1), _event(2)])
    assert (outbox.accept([_event(2), _event(3)]), len(_pending(outbox))) == ((1, 1), 3)


def test_event_that_is_twice_in_one_batch_counts_once(outbox: Outbox) -> None:
    assert outbox.accept([_event(1), _event(1)]) == (1, 1)


def test_repeat_of_an_acknowledged_event_does_not_bring_it_back(outbox: Outbox) -> None:
    outbox.accept([_event(1)])
    outbox.acknowledge([one.row for one in outbox.pending(limit=10, max_bytes=10**6)])
    outbox.accept([_event(1)])
    assert _pending(outbox) == []


@pytest.mark.parametrize(
    "other", [_event(1, device_id="sensor-8"), _event(1, epoch=4), _event(2)], ids=["device", "epoch", "sequence"]
)
def test_events_of_another_identity_are_no_repeats(outbox: Outbox, other: Event) -> None:
    assert outbox.accept([_event(1), other]) == (2, 0)


def test_accepted_events_keep_their_identity(outbox: Outbox) -> None:
    outbox.accept([_event(9, device_id="sensor-7", epoch=3)])
    assert _pending(outbox) == [_event(9, device_id="sensor-7", epoch=3)]


def test_accepting_does_not_move_the_own_sequence(outbox: Outbox) -> None:
    outbox.accept([_event(1000)])
    assert outbox.append([_alert()], at_ms=0) == [1]


def test_event_whose_margin_is_not_a_number_is_not_dropped_in_silence(outbox: Outbox) -> None:
    event = _event(1, body=_reading(math.nan))
    try:
        counts = outbox.accept([event])
    except InvalidInput:
        return
    assert counts == (1, 0)


# ---- pending and acknowledge


def test_alerts_go_first_then_the_oldest(outbox: Outbox) -> None:
    outbox.append([_reading(), _alert("a"), _sample(), _alert("b"), _reading()], at_ms=0)
    assert [event.sequence for event in _pending(outbox)] == [2, 4, 1, 3, 5]


def test_no_more_rows_than_the_limit(outbox: Outbox) -> None:
    outbox.append([_alert()] * 5, at_ms=0)
    assert len(outbox.pending(limit=3, max_bytes=10**6)) == 3


def test_no_more_bytes_than_the_bound(outbox: Outbox) -> None:
    outbox.append([_sample(1000)] * 5, at_ms=0)
    assert len(outbox.pending(limit=10, max_bytes=3500)) == 3


def test_row_beyond_the_byte_bound_still_goes_alone(outbox: Outbox) -> None:
    outbox.append([_sample(10_000)] * 2, at_ms=0)
    assert len(outbox.pending(limit=10, max_bytes=100)) == 1


def test_acknowledged_rows_are_not_pending(outbox: Outbox) -> None:
    outbox.append([_alert()] * 3, at_ms=0)
    rows = [one.row for one in outbox.pending(limit=2, max_bytes=10**6)]
    outbox.acknowledge(rows)
    assert [event.sequence for event in _pending(outbox)] == [3]


def test_acknowledged_rows_stay_as_a_record(outbox: Outbox) -> None:
    outbox.append([_alert()] * 3, at_ms=0)
    outbox.acknowledge([one.row for one in outbox.pending(limit=2, max_bytes=10**6)])
    assert [event.sequence for event in outbox.events()] == [1, 2, 3]


def test_stats_count_what_waits_and_what_was_taken(outbox: Outbox) -> None:
    outbox.append([_alert()] * 3, at_ms=0)
    outbox.acknowledge([one.row for one in outbox.pending(limit=2, max_bytes=10**6)])
    stats = outbox.stats()
    assert (stats.pending_rows, stats.acknowledged_rows, stats.evicted_rows) == (1, 2, 0)


def test_empty_outbox_has_nothing_pending(outbox: Outbox) -> None:
    assert (outbox.pending(limit=10, max_bytes=10), outbox.stats().pending_bytes) == ([], 0)


# ---- bounds


def test_outbox_stays_within_its_bound(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", "camera-1", bounds=Bounds(max_bytes=20_000))
    for _ in range(50):
        outbox.append([_sample(1000)], at_ms=0)
    total = outbox.stats().pending_bytes
    outbox.close()
    assert total <= 20_000


def test_acknowledged_rows_go_before_any_that_waits(tmp_path: Path) -> None:
    outbox = _bounded(tmp_path, rows=4, body=_reading(1.0))
    outbox.append([_reading(0.0)] * 4, at_ms=0)
    outbox.acknowledge([3, 4])
    outbox.append([_reading(1.0)] * 2, at_ms=0)
    kept = [event.sequence for event in outbox.events()]
    outbox.close()
    assert kept == [1, 2, 5, 6]


def test_forgetting_acknowledged_rows_is_no_loss(tmp_path: Path) -> None:
    outbox = _bounded(tmp_path, rows=2, body=_reading(1.0))
    outbox.append([_reading(0.0)] * 2, at_ms=0)
    outbox.acknowledge([1, 2])
    outbox.append([_reading(1.0)] * 2, at_ms=0)
    evicted = outbox.stats().evicted_rows
    outbox.close()
    assert evicted == 0


def test_surest_reading_goes_first_not_the_oldest(tmp_path: Path) -> None:
    outbox = _bounded(tmp_path, rows=3, body=_reading(1.0))
    outbox.append([_reading(0.0), _reading(1.0), _reading(0.5)], at_ms=0)
    outbox.append([_reading(0.25)], at_ms=0)
    kept = [event.sequence for event in outbox.events()]
    outbox.close()
    assert kept == [1, 3, 4]


def test_readings_go_before_samples_and_samples_before_alerts(tmp_path: Path) -> None:
    filler = "x" * 100  # all three about the size of a reading, so that one makes room for one
    outbox = _bounded(tmp_path, rows=3, body=_sample(300))
    outbox.append([Alert(what="a", detail=filler * 3), _sample(270), _reading(0.0, source=filler * 2)], at_ms=0)
    outbox.append([_sample(270)], at_ms=0)
    outbox.append([_sample(270)], at_ms=0)
    kept = [event.sequence for event in outbox.events()]
    outbox.close()
    assert kept == [1, 4, 5]


def test_evicted_rows_are_counted(tmp_path: Path) -> None:
    outbox = _bounded(tmp_path, rows=3, body=_reading(1.0))
    for _ in range(5):
        outbox.append([_reading(1.0)], at_ms=0)
    evicted = outbox.stats().evicted_rows
    outbox.close()
    assert evicted == 2


def test_count_of_evicted_rows_outlives_a_restart(tmp_path: Path) -> None:
    outbox = _bounded(tmp_path, rows=3, body=_reading(1.0))
    for _ in range(5):
        outbox.append([_reading(1.0)], at_ms=0)
    outbox.close()
    again = Outbox(tmp_path / "bounded.db", "camera-1")
    evicted = again.stats().evicted_rows
    again.close()
    assert evicted == 2


def test_alert_outlives_a_reading_that_comes_after_it(tmp_path: Path) -> None:
    outbox = _bounded(tmp_path, rows=1, body=_reading(1.0))
    outbox.append([Alert(what="a", detail="x" * 100)], at_ms=0)
    outbox.append([_reading(1.0)], at_ms=0)
    kinds = [type(event.body).__name__ for event in outbox.events()]
    outbox.close()
    assert "Alert" in kinds


def test_event_larger_than_the_outbox_does_not_empty_it(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "o.db", "camera-1", bounds=Bounds(max_bytes=5000))
    outbox.append([_alert()], at_ms=0)
    outbox.append([_sample(10_000)], at_ms=0)
    kinds = [type(event.body).__name__ for event in outbox.events()]
    outbox.close()
    assert "Alert" in kinds


def test_late_acknowledgement_of_an_evicted_row_does_not_hit_its_successor(tmp_path: Path) -> None:
    """While a batch is on its way, one of its rows is evicted and a new event comes: that one was never sent."""
    outbox = _bounded(tmp_path, rows=2, body=_reading(1.0))
    outbox.append([_reading(0.0), _reading(1.0)], at_ms=0)
    on_its_way = outbox.pending(limit=10, max_bytes=10**6)
    outbox.append([_reading(0.5)], at_ms=0)
    outbox.acknowledge([one.row for one in on_its_way])
    waiting = [event.sequence for event in _pending(outbox)]
    outbox.close()
    assert waiting == [3]


def test_row_that_is_given_up_while_it_is_under_way_counts_as_what_became_of_it(tmp_path: Path) -> None:
    outbox = _bounded(tmp_path, rows=2, body=_reading(1.0))
    outbox.append([_reading(0.0), _reading(1.0)], at_ms=0)
    under_way = outbox.pending(limit=10, max_bytes=10**6)
    outbox.append([_reading(0.5)], at_ms=0)
    before = outbox.stats().accounts["reading"]
    outbox.acknowledge([one.row for one in under_way])
    after = outbox.stats().accounts["reading"]
    outbox.acknowledge([one.row for one in under_way])
    again = outbox.stats().accounts["reading"]
    outbox.close()
    assert (before.evicted.rows, before.acknowledged.rows) == (1, 0)
    assert (after.evicted.rows, after.acknowledged.rows, after.appended.rows) == (0, 2, 3)
    assert again == after


def test_row_that_was_given_up_before_a_batch_stays_given_up(tmp_path: Path) -> None:
    outbox = _bounded(tmp_path, rows=2, body=_reading(1.0))
    outbox.append([_reading(0.0), _reading(1.0)], at_ms=0)
    first = outbox.pending(limit=10, max_bytes=10**6)
    outbox.append([_reading(0.5)], at_ms=0)
    outbox.pending(limit=10, max_bytes=10**6)  # that batch failed; this is the next one
    outbox.acknowledge([one.row for one in first])
    found = outbox.stats().accounts["reading"]
    outbox.close()
    assert (found.evicted.rows, found.acknowledged.rows) == (1, 1)


@pytest.fixture(scope="module")
def without_room(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a process said whose disk was full for five appends, each of which had to make room first."""
    path = tmp_path_factory.mktemp("full") / "o.db"
    done = subprocess.run(
        [sys.executable, "-c", _APPEND_WITHOUT_ROOM, str(path)], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.split()


def test_full_disk_is_unavailable(without_room: list[str]) -> None:
    assert without_room.count("refused") == 5


def test_full_disk_leaves_what_was_there(without_room: list[str]) -> None:
    assert "kept" in without_room


def test_full_disk_does_not_loosen_the_bound(without_room: list[str]) -> None:
    assert int(without_room[-1]) <= 20_000
