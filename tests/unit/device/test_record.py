"""What a device has to say, on a disk that is full, and when there is room again."""

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from builders import make_bundle, quadrant_images
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.messages import Alert, Body, Reading
from edgeloop.contracts.prediction import Prediction
from edgeloop.device.record import Record
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.load import load
from edgeloop.transport.budget import Budget
from edgeloop.transport.keep import Keep
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.worth import Bounds
from sensed import Device
from small_disk import fill, small_disk


class Moody:
    """An outbox in memory whose disk is full when told so."""

    def __init__(self) -> None:
        self.is_full = False
        self.taken: list[Body] = []

    def append(self, bodies: Sequence[Body], *, at_ms: int) -> list[int]:
        """See Outbox.append."""
        if self.is_full:
            raise Unavailable("the outbox cannot write: database or disk is full")
        self.taken += bodies
        return []


def _reading(source: str = "door") -> Reading:
    made = Prediction(
        label="a", score=0.5, margin=0.5, top=(), latency_ms=1.0, bundle="tiny@1.0.0", engine="litert",
        precision="int8",
    )  # fmt: skip
    return Reading(source=source, prediction=made)


def _alerts(bodies: Sequence[Body]) -> list[str]:
    return [f"{body.what}: {body.detail}" for body in bodies if isinstance(body, Alert)]


def test_full_disk_reaches_nobody_and_is_said() -> None:
    outbox = Moody()
    record = Record(outbox)
    outbox.is_full = True
    record.keep([_reading(), _reading()])
    assert (record.dropped, record.trouble) == (2, "the outbox cannot write: database or disk is full")


def test_trouble_is_told_once_when_it_is_over() -> None:
    outbox = Moody()
    record = Record(outbox)
    outbox.is_full = True
    for _ in range(5):
        record.keep([_reading()])
    outbox.is_full = False
    record.keep([_reading()])
    record.keep([_reading()])
    (alert,) = _alerts(outbox.taken)
    assert alert.startswith("storage: 5 events could not be written: the outbox cannot write")
    assert record.trouble == ""


def test_alert_that_found_no_room_is_written_when_there_is_some() -> None:
    outbox = Moody()
    record = Record(outbox)
    outbox.is_full = True
    record.keep([_reading(), Alert(what="drift", detail="novelty")])
    record.retry()
    outbox.is_full = False
    record.retry()
    assert (_alerts(outbox.taken)[0], record.dropped, record.trouble) == ("drift: novelty", 1, "")


def test_alerts_in_mind_are_bounded_and_those_that_are_lost_are_counted() -> None:
    outbox = Moody()
    record = Record(outbox)
    outbox.is_full = True
    for number in range(150):
        record.keep([Alert(what="drift", detail=str(number))])
    outbox.is_full = False
    record.retry()
    told = [alert for alert in _alerts(outbox.taken) if alert.startswith("drift")]
    assert (told[0], len(told), record.dropped) == ("drift: 50", 100, 50)


# ---- on a real disk


def _until(is_true: Callable[[], bool], what: str) -> None:
    waited = threading.Event()
    for _ in range(1500):
        if is_true():
            return
        waited.wait(0.02)
    raise AssertionError(f"{what} did not come about")


def _fill_up(record: Record, disk: Path) -> Path:
    """Fill the disk, and write until not even what was set apart is left."""
    ballast = fill(disk)
    for number in range(3000):
        record.keep([_reading(f"{number:06d}" + "x" * 2000)])
        if record.trouble:
            return ballast
    raise AssertionError("the disk is never full")


def test_outbox_on_a_full_disk_recovers_by_itself_and_its_accounts_hold(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        outbox = Outbox(disk / "outbox.db", "camera-1", bounds=Bounds(keep_free_bytes=0))
        record = Record(outbox)
        record.keep([_reading()])
        ballast = _fill_up(record, disk)
        written = outbox.stats().accounts["reading"].appended.rows
        before = record.dropped
        record.keep([_reading("lost")])
        assert (record.dropped, outbox.stats().accounts["reading"].appended.rows) == (before + 1, written)
        ballast.unlink()
        record.keep([_reading("kept")])
        kept = list(outbox.events())
        accounts = outbox.stats().accounts
        outbox.close()
    assert record.trouble == ""
    assert len(kept) == sum(one.pending.rows for one in accounts.values()) == written + 2
    assert accounts["alert"].pending.rows == 1


def test_outbox_does_not_take_the_last_of_a_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        outbox = Outbox(disk / "outbox.db", "camera-1", bounds=Bounds(keep_free_bytes=3_000_000))
        for number in range(600):
            outbox.append([_reading(f"{number:06d}" + "x" * 10_000)], at_ms=0)
        free_bytes = shutil.disk_usage(disk).free
        account = outbox.stats().accounts["reading"]
        outbox.close()
    # What is on its way into the file stands in its log, too, which takes 1 MB.
    assert free_bytes > 1_700_000
    assert account.evicted.rows > 300
    assert account.evicted.rows + account.pending.rows == 600


def _switch_often(keep: Keep) -> None:
    """Until the disk is full, and then to what is never to be."""
    try:
        for number in range(3000):
            keep.set({"other": "x" * 4000 + str(number)})
    except Unavailable:
        keep.set({"active": "tiny@2.0.0", "other": "x" * 9000})


def test_what_is_kept_on_a_full_disk_stays_as_it_was_and_changes_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        keep = Keep(disk / "device.db")
        keep.set({"active": "tiny@1.0.0"})
        ballast = fill(disk)
        with pytest.raises(Unavailable, match="Free some space"):
            _switch_often(keep)
        assert keep.get("active", str) == "tiny@1.0.0"
        ballast.unlink()
        keep.set({"active": "tiny@2.0.0"})
        assert keep.get("active", str) == "tiny@2.0.0"
        keep.close()


def test_budget_on_a_full_disk_goes_on_counting(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        keep = Keep(disk / "device.db")
        budget = Budget(keep, limit_bytes=10**9)
        ballast = fill(disk)
        for number in range(3000):
            budget.spend("download", {f"{number % 50:04d}" + "x" * 400: 1})
        assert budget.today().spent_bytes() == 3000
        ballast.unlink()
        budget.spend("download", {"files/a": 1})
        assert Budget(keep, limit_bytes=10**9).today().spent_bytes() == 3001
        keep.close()


def test_inference_goes_on_while_the_disk_is_full_and_its_readings_are_kept_again_after_it(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    images = [encode_png(image) for image in quadrant_images(4)]
    predictor = load(make_bundle(tmp_path / "bundle"))

    def show(number: int) -> None:
        (spool / f"{number:06d}.png").write_bytes(images[number % 4])

    with (
        small_disk(tmp_path / "disk") as disk,
        Device(disk, str(spool), predictor, bounds=Bounds(keep_free_bytes=0)) as device,
    ):
        show(0)
        _until(lambda: device.loop.readings == 1, "the first reading")
        ballast = _fill_up(device.record, disk)
        for number in range(1, 6):
            show(number)
        _until(lambda: device.loop.readings == 6, "readings on a full disk")
        assert device.record.trouble
        ballast.unlink()
        show(6)
        _until(lambda: not device.record.trouble, "room again")
        last = device.readings()[-1].source
        told = [alert.what for alert in device.alerts()]
    assert (last, told) == ("000006.png", ["storage"])
