"""Real processes: what they answer, and how they end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from at_work import BLACK, Room, caught_up, file_of, frame_of, is_gone, room, with_model
from bad_models import crashing, dark, endless, slow
from builders import LABELS, Parts, as_bundle, make_parts, quadrant_images
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Unavailable
from edgeloop.contracts.manifest import EngineName
from edgeloop.device.worker import Died, Late, Worker
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.sources.port import Frame
from sensed import picture_parts, row_parts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="how a process died is told by Linux's signals")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Room]:
    with room(tmp_path) as made:
        yield made


# ---- answers


def test_answers_are_those_of_the_predictor(here: Room) -> None:
    parts, images = picture_parts(), quadrant_images(4)
    bundle = as_bundle(parts)
    predictor = Predictor(bundle, bundle.manifest.variants[0])
    worker = here.worker(parts)
    wide = np.repeat(images[3], 2, axis=1)
    frames = [
        frame_of(images[0], "array"),
        file_of(images[1], "file.png"),
        frame_of(np.stack([images[2]] * 3, axis=2), "colours"),
        frame_of(wide[:, ::2], "every other column, which is not whole in memory"),
    ]
    for frame in frames:
        made, wanted = worker.answer(frame), predictor.predict(frame.data)
        assert (made.label, made.score, made.top) == (wanted.label, wanted.score, wanted.top)
        assert (made.source, made.at_s, made.bundle) == (frame.name, 0.0, "tiny@1.0.0")


def test_numbers_of_any_type_and_byte_order_arrive(here: Room) -> None:
    parts = row_parts()
    worker = here.worker(parts)
    for dtype in ("<f4", ">f4", "<f8", "float16"):
        assert worker.answer(Frame("row", np.array([0, 0, 1, 1], dtype), 0.0, "tensor/raw")).label == "second"


def test_frame_larger_than_the_pipe_arrives_whole(here: Room) -> None:
    big = np.zeros((2400, 2400, 3), np.uint8)  # 17 MB
    big[1200:] = 255
    worker = here.worker(picture_parts())
    assert [worker.answer(frame_of(one)).label for one in (big, 255 - big, big)] == ["second", "first", "second"]


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"this is no image", Corrupt), (b"", Corrupt), (np.zeros((0, 8), np.uint8), InvalidInput)],
)
def test_error_is_raised_here_as_it_was_there_and_the_process_goes_on(
    here: Room, data: bytes, error: type[EdgeloopError]
) -> None:
    worker = here.worker(make_parts())
    pid = worker.pid
    with pytest.raises(error):
        worker.answer(Frame("bad", data, 0.0, "image/png"))
    assert worker.answer(frame_of(quadrant_images(1)[0])).label == LABELS[0]
    assert worker.pid == pid


def test_input_that_has_not_changed_is_not_computed_again(here: Room) -> None:
    worker = here.worker(make_parts(), cache=True)
    first, second = quadrant_images(2)
    assert [worker.answer(frame_of(one)).cached for one in (first, first, second, first)] == [False, True, False, True]


def test_late_answer_is_the_one_to_its_own_frame(here: Room) -> None:
    worker = here.worker(make_parts().with_model(slow(rounds=200_000)))
    first, second = quadrant_images(2)
    with pytest.raises(Late):
        worker.answer(frame_of(first, "first"), within_s=0.0)
    assert worker.is_busy
    made = caught_up(worker)
    assert (made.source, made.label, worker.is_busy) == ("first", LABELS[0], False)
    with pytest.raises(Late):
        worker.answer(frame_of(first, "first"), within_s=0.0)
    made = worker.answer(frame_of(second, "second"))
    assert (made.source, made.label) == ("second", LABELS[1])


@pytest.mark.parametrize(("parts", "is_there"), [(row_parts(), False), (picture_parts(), True)], ids=["rows", "images"])
def test_opencv_is_loaded_for_images_alone(here: Room, parts: Parts, is_there: bool) -> None:
    """It is 17 MB, a quarter of such a process."""
    worker = here.worker(parts)
    assert ("/cv2/" in Path(f"/proc/{worker.pid}/maps").read_text()) is is_there


# ---- how it ends


def test_crash_while_answering_names_the_signal(here: Room) -> None:
    worker = here.worker(make_parts().with_model(dark()))
    pid = worker.pid
    assert worker.answer(frame_of(quadrant_images(1)[0])).label == LABELS[0]
    with pytest.raises(Died, match="crashed while answering: SIGFPE") as died:
        worker.answer(frame_of(BLACK))
    assert (died.value.is_crash, died.value.lived_s > 0, is_gone(pid)) == (True, True, True)


@pytest.mark.parametrize(
    ("number", "is_crash"),
    [(signal.SIGSEGV, True), (signal.SIGABRT, True), (signal.SIGKILL, False), (signal.SIGTERM, False)],
)
def test_signal_from_outside_is_told_with_the_next_frame(here: Room, number: signal.Signals, is_crash: bool) -> None:
    worker = here.worker(make_parts())
    os.kill(worker.pid, number)
    os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # it may answer a frame before the signal ends it
    with pytest.raises(Died, match=number.name) as died:
        worker.answer(frame_of(quadrant_images(1)[0]))
    assert died.value.is_crash is is_crash


def test_model_that_hangs_is_ended_after_its_time(here: Room) -> None:
    worker = here.worker(with_model(endless()), answer_s=0.5)
    pid = worker.pid
    with pytest.raises(Died, match=r"did not answer within 0\.5 s and was stopped") as died:
        worker.answer(frame_of(quadrant_images(1)[0]))
    assert (died.value.is_crash, is_gone(pid)) == (True, True)


def test_process_that_is_stopped_is_ended_after_its_time_also_while_it_is_told(here: Room) -> None:
    worker = here.worker(make_parts(), answer_s=0.5)
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(Died, match="did not answer"):
        worker.answer(frame_of(np.zeros((2400, 2400, 3), np.uint8)))
    assert is_gone(worker.pid)


def test_crash_while_loading_names_the_signal(here: Room) -> None:
    with pytest.raises(Died, match="crashed while loading: SIGSEGV") as died:
        here.worker(with_model(crashing(), engine=EngineName.LITERT))
    assert died.value.is_crash


def test_loading_that_takes_too_long_is_no_crash(here: Room) -> None:
    """A small board loads slowly right after it was switched on."""
    order, manifest = here.order(make_parts()), as_bundle(make_parts()).manifest_bytes
    before = set(psutil.Process().children())
    with pytest.raises(Unavailable, match=r"did not load within 0\.01 s and was stopped") as slow:
        Worker.start(msgspec.structs.replace(order, load_s=0.01), manifest)
    assert not isinstance(slow.value, Died)
    assert set(psutil.Process().children()) <= before


def test_damaged_file_is_told_as_that(here: Room) -> None:
    parts = make_parts()
    order = here.order(parts)
    (here.shelf.folder / "files" / order.variant).write_bytes(b"\0" * 100)
    with pytest.raises(Corrupt):
        Worker.start(order, as_bundle(parts).manifest_bytes)


def test_process_that_cannot_be_started_is_no_crash(here: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    order, manifest = here.order(make_parts()), as_bundle(make_parts()).manifest_bytes
    monkeypatch.setattr(sys, "executable", str(here.shelf.folder / "no such program"))
    with pytest.raises(Died, match="could not be started") as died:
        Worker.start(order, manifest)
    assert not died.value.is_crash


def test_interrupt_from_the_terminal_does_not_reach_it(here: Room) -> None:
    worker = here.worker(make_parts())
    assert os.getpgid(worker.pid) != os.getpgid(0)
    os.kill(worker.pid, signal.SIGINT)
    assert worker.answer(frame_of(quadrant_images(1)[0])).label == LABELS[0]


def test_process_is_the_first_to_go_when_memory_runs_out(here: Room) -> None:
    assert Path(f"/proc/{here.worker(make_parts()).pid}/oom_score_adj").read_text() == "1000\n"


def test_process_that_is_ended_is_gone_and_waited_for(here: Room) -> None:
    worker = here.worker(make_parts())
    worker.end()
    worker.end()
    assert is_gone(worker.pid)


def test_two_hundred_starts_leak_nothing(here: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make_parts()
    order, manifest = here.order(parts), as_bundle(parts).manifest_bytes
    process = psutil.Process()
    for _ in range(3):
        Worker.start(order, manifest).end()
    files = process.num_fds()
    for _ in range(3):
        Worker.start(order, manifest).end()
    # What dies at once costs no start of Python.
    monkeypatch.setattr(sys, "executable", "/bin/true")
    for _ in range(200):
        with pytest.raises(Died):
            Worker.start(order, manifest)
    assert process.num_fds() == files


# ---- without an agent

_AGENT = """
import sys
from pathlib import Path
import msgspec
from edgeloop.device.exchange import Order
from edgeloop.device.worker import Worker
from edgeloop.runtime.sources.port import Frame

order = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Order)
worker = Worker.start(order, Path(sys.argv[2]).read_bytes())
print(worker.pid, flush=True)
worker.answer(Frame("a", Path(sys.argv[3]).read_bytes(), 0.0, "image/png"))
sys.stdin.read()
"""


def _agent_that_asks(here: Room, model: bytes, folder: Path) -> "tuple[subprocess.Popen[bytes], psutil.Process]":
    parts = make_parts().with_model(model) if model == dark() else with_model(model)
    for name, data in (
        ("order", to_json(here.order(parts, answer_s=3600.0))),
        ("manifest", as_bundle(parts).manifest_bytes),
        ("image", file_of(quadrant_images(1)[0]).data),
    ):
        assert isinstance(data, bytes)
        (folder / name).write_bytes(data)
    command = [sys.executable, "-c", _AGENT, *(str(folder / name) for name in ("order", "manifest", "image"))]
    agent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert agent.stdout is not None
    return agent, psutil.Process(int(agent.stdout.readline()))


@pytest.mark.parametrize("model", [pytest.param(endless, id="hangs"), pytest.param(dark, id="waits for a frame")])
def test_process_does_not_outlive_an_agent_that_was_killed(here: Room, tmp_path: Path, model: type) -> None:
    agent, process = _agent_that_asks(here, model(), tmp_path)
    with agent:
        try:
            while model is endless and process.cpu_times().user < 2.0:  # a small model takes less to load
                assert agent.poll() is None
            agent.kill()
            agent.wait()
            process.wait(timeout=30)  # it was to have an hour for its answer
        finally:
            agent.kill()
            if process.is_running():
                process.kill()
