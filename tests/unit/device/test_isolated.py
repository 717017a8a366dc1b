"""A version whose process dies and is started anew: real processes, and the loop that asks them."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from at_work import BLACK, Room, file_of, frame_of, is_gone, room
from bad_models import dark
from builders import LABELS, as_bundle, make_parts, pack, quadrant_images
from edgeloop.backoff import Backoff
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, Unavailable
from edgeloop.contracts.messages import Alert, Reading
from edgeloop.device.infer import InferenceLoop
from edgeloop.device.isolated import Isolated, Resting
from edgeloop.device.record import Record
from edgeloop.device.select import Selector
from edgeloop.device.sense import Senses, opener
from edgeloop.device.slots import AtWork, Slot, Slots
from edgeloop.device.worker import Died, Slow, Worker
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.sources.port import Frame
from edgeloop.transport.outbox import Outbox
from sensed import NOTHING

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="how a process died is told by Linux's signals")

LIT_IMAGE = quadrant_images(1)[0]
LIT = frame_of(LIT_IMAGE)
DARK = frame_of(BLACK)


class Clock:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Room]:
    with room(tmp_path) as made:
        yield made


def _kill(version: Isolated) -> None:
    assert version.pid is not None
    os.kill(version.pid, signal.SIGKILL)


def test_process_that_crashed_is_started_anew_for_the_next_frame(here: Room) -> None:
    version = here.isolated(make_parts().with_model(dark()))
    assert version.answer(LIT).label == LABELS[0]
    before = version.pid
    with pytest.raises(Died, match="SIGFPE"):
        version.answer(DARK)
    assert version.pid is None
    assert version.answer(LIT).label == LABELS[0]
    assert version.pid not in (None, before)


def test_process_that_dies_again_without_an_answer_rests_and_then_works_again(here: Room, clock: Clock) -> None:
    version = here.isolated(make_parts().with_model(dark()), clock=clock)
    for _ in range(2):
        with pytest.raises(Died):
            version.answer(DARK)
    with pytest.raises(Resting) as resting:
        version.answer(LIT)
    assert 0 < resting.value.retry_after_s <= 0.5
    clock.now_s += 0.51
    assert version.answer(LIT).label == LABELS[0]


def test_rests_double_while_nothing_helps_and_begin_anew_after_an_answer(here: Room, clock: Clock) -> None:
    version = here.isolated(make_parts().with_model(dark()), clock=clock)
    rests = []
    for _ in range(2):  # the first new one is started at once
        with pytest.raises(Died):
            version.answer(DARK)
    for _ in range(3):
        with pytest.raises(Resting) as resting:
            version.answer(DARK)
        rests.append(resting.value.retry_after_s)
        clock.now_s += rests[-1] + 0.001
        with pytest.raises(Died):
            version.answer(DARK)
    # Each lies between half and all of a bound that doubles.
    assert [0.25 <= rests[0] <= 0.5, 0.5 <= rests[1] <= 1.0, 1.0 <= rests[2] <= 2.0] == [True] * 3
    clock.now_s += 100
    version.answer(LIT)
    with pytest.raises(Died):
        version.answer(DARK)
    assert version.answer(LIT).label == LABELS[0]


def test_error_of_an_input_is_a_sign_of_life(here: Room, clock: Clock) -> None:
    version = here.isolated(make_parts().with_model(dark()), clock=clock)
    with pytest.raises(Died):
        version.answer(DARK)
    with pytest.raises(ValueError, match="after preprocessing"):
        version.answer(frame_of(BLACK[:4]))
    with pytest.raises(Died):
        version.answer(DARK)
    assert version.answer(LIT).label == LABELS[0]


def test_version_whose_file_was_damaged_meanwhile_does_not_load_any_more(here: Room) -> None:
    version = here.isolated(make_parts())
    (here.shelf.folder / "files" / version.variant.file).write_bytes(b"\0" * 10)
    _kill(version)
    with pytest.raises(Died, match="SIGKILL"):
        version.answer(LIT)
    with pytest.raises(Died, match="does not load any more") as died:
        version.answer(LIT)
    assert died.value.is_crash


@pytest.mark.parametrize("error", [Unavailable("the engine onnxruntime is not installed here"), InvalidInput("no")])
def test_version_that_the_machine_cannot_load_any_more_has_not_crashed(here: Room, error: EdgeloopError) -> None:
    bundle = as_bundle(make_parts())

    def start() -> Worker:
        raise error

    version = Isolated(bundle, bundle.manifest.variants[0], start)
    with pytest.raises(Died, match="does not load any more") as died:
        version.answer(LIT)
    assert not died.value.is_crash


def test_version_that_does_not_load_any_more_in_time_is_slow(here: Room) -> None:
    bundle = as_bundle(make_parts())

    def start() -> Worker:
        raise Slow("did not load within 30 s and was stopped")

    version = Isolated(bundle, bundle.manifest.variants[0], start)
    with pytest.raises(Died, match="did not load") as died:
        version.answer(LIT)
    assert (died.value.is_slow, died.value.is_crash) == (True, False)


def test_version_that_is_to_forget_computes_again_once(here: Room) -> None:
    version = here.isolated(make_parts(), cache=True)
    assert [version.answer(LIT).cached for _ in range(2)] == [False, True]
    version.forget()
    assert [version.answer(LIT).cached for _ in range(2)] == [False, True]


def test_closed_version_leaves_no_process(here: Room) -> None:
    version = here.isolated(make_parts())
    pid = version.pid
    assert pid is not None
    version.close()
    assert (version.pid, is_gone(pid)) == (None, True)


# ---- in the loop


class Loop:
    """An inference loop over one trusted version, with what it told; asked frame by frame."""

    def __init__(self, folder: Path, version: AtWork) -> None:
        self.slots = Slots()
        self.slots.put(Slot(version))
        self.deaths: list[bool] = []
        self.outbox = Outbox(folder / "outbox.db", "cam")
        self.loop = InferenceLoop(
            Senses("none", opener("none"), self.slots, backoff=Backoff(first_s=0.1, longest_s=0.1)),
            Selector(NOTHING, rng=random.Random(0)),
            Record(self.outbox),
            shadow_share=1.0,
            seed=0,
            on_death=lambda version, death: self.deaths.append(death.is_crash),
        )

    def see(self, *frames: Frame) -> list[str]:
        """The names of those that were answered so far."""
        for frame in frames:
            slot = self.slots.take()
            assert slot is not None
            self.loop.take(frame, slot)
            self.slots.let_go()
        return [event.body.source for event in self.outbox.events() if isinstance(event.body, Reading)]

    def alerts(self) -> list[str]:
        """What people are told so far."""
        return [event.body.detail for event in self.outbox.events() if isinstance(event.body, Alert)]


@contextmanager
def _looping(folder: Path, version: AtWork) -> Iterator[Loop]:
    made = Loop(folder, version)
    try:
        yield made
    finally:
        made.outbox.close()


def test_trusted_version_that_was_killed_loses_no_reading(here: Room, tmp_path: Path) -> None:
    version = here.isolated(make_parts())
    with _looping(tmp_path, version) as loop:
        loop.see(file_of(LIT_IMAGE, "1.png"))
        _kill(version)
        assert loop.see(file_of(LIT_IMAGE, "2.png"), file_of(LIT_IMAGE, "3.png")) == ["1.png", "2.png", "3.png"]
        assert (loop.loop.errors, loop.deaths) == (0, [False])
        (told,) = loop.alerts()
        assert "tiny@1.0.0: was ended by SIGKILL" in told


def test_frame_that_a_trusted_version_does_not_survive_twice_is_an_error_and_the_loop_goes_on(
    here: Room, tmp_path: Path
) -> None:
    version = here.isolated(make_parts().with_model(dark()))
    frames = [file_of(image, name) for image, name in ((LIT_IMAGE, "1"), (BLACK, "2"), (LIT_IMAGE, "3"), (BLACK, "4"))]
    with _looping(tmp_path, version) as loop:
        assert loop.see(*frames) == ["1", "3"]
        assert (loop.loop.errors, loop.deaths) == (2, [True] * 4)
        assert "4: crashed while answering: SIGFPE" in loop.loop.error_reason
        assert len(loop.alerts()) == 1, "told once"


def test_loop_that_is_to_end_does_not_wait_for_a_version_that_rests(here: Room, tmp_path: Path) -> None:
    version = here.isolated(make_parts().with_model(dark()), clock=lambda: 0.0)  # whose rests never end
    with _looping(tmp_path, version) as loop:
        stop = threading.Event()
        loop.loop.run(_set(stop))
        assert loop.see(file_of(BLACK, "1"), file_of(LIT_IMAGE, "2")) == []
        assert "is started anew in" in loop.loop.error_reason


def _set(stop: threading.Event) -> threading.Event:
    stop.set()
    return stop


def test_version_that_takes_the_place_of_one_that_rests_answers_its_frame(here: Room, tmp_path: Path) -> None:
    resting = here.isolated(make_parts().with_model(dark()), clock=lambda: 0.0)
    sound = here.isolated(make_parts(version="0.9.0"))
    with _looping(tmp_path, resting) as loop:
        loop.see(file_of(BLACK, "1"))
        slow = threading.Timer(0.2, loop.slots.put, [Slot(sound)])
        slow.start()
        assert loop.see(file_of(LIT_IMAGE, "2")) == ["2"]
        slow.join()
        assert resting.pid is None


AGENT_OF_FILES = """
import random, sys, threading, time
from pathlib import Path
import msgspec
from edgeloop.backoff import Backoff
from edgeloop.bundle.archive import open_bundle
from edgeloop.device.exchange import Order
from edgeloop.device.infer import InferenceLoop
from edgeloop.device.isolated import put_to_work
from edgeloop.device.record import Record
from edgeloop.device.config import SelectConfig
from edgeloop.device.select import Selector
from edgeloop.device.sense import Senses, opener
from edgeloop.device.slots import Slot, Slots
from edgeloop.transport.outbox import Outbox

order = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)
bundle, spool = open_bundle(sys.argv[2]), sys.argv[3]
slots, stop = Slots(), threading.Event()
slots.put(Slot(put_to_work(order, bundle, bundle.manifest.variants[0])))
outbox = Outbox(Path(sys.argv[4]), "cam")
senses = Senses(spool, opener(spool), slots, backoff=Backoff(first_s=0.1, longest_s=0.1))
everything = Selector(SelectConfig(audit_share=1.0), rng=random.Random(0))
loop = InferenceLoop(senses, everything, Record(outbox), shadow_share=1.0, seed=0)
thread = threading.Thread(target=loop.run, args=(stop,))
thread.start()
while loop.readings < 3:
    time.sleep(0.02)
stop.set()
thread.join()
slots.put(None)
print(*sys.modules)
"""


def test_agent_that_hands_on_files_leaves_numpy_and_the_engines_to_the_process_that_answers(
    here: Room, tmp_path: Path
) -> None:
    parts, spool, order = make_parts(), tmp_path / "spool", tmp_path / "order.json"
    spool.mkdir()
    for number in range(3):
        (spool / f"{number}.png").write_bytes(encode_png(LIT_IMAGE))
    order.write_bytes(to_json(here.order(parts)))
    what = (str(order), str(pack(parts, tmp_path)), str(spool), str(tmp_path / "outbox.db"))
    done = subprocess.run(
        [sys.executable, "-c", AGENT_OF_FILES, *what], capture_output=True, text=True, check=True, timeout=120
    )
    heavy = ("numpy", "cv2", "onnxruntime", "ai_edge_litert", "openvino", "edgeloop.runtime.predictor")
    assert set(done.stdout.split()).isdisjoint(heavy)
