import itertools
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from cameras import MjpegCamera, RtspCamera, number_in, picture
from specs import IMAGE

from edgeloop.contracts.errors import Unavailable
from edgeloop.runtime.sources.capture import Capture, Pixels, open_video
from edgeloop.runtime.sources.live import LiveVideo, Patience
from edgeloop.runtime.sources.open import open_source
from edgeloop.runtime.sources.port import Frame, FrameError
from edgeloop.runtime.sources.stream import Stream

PROMPT_S = 5.0
"""Measured: 0.55 s, half a second of it for a thread that may still come back. The rest is for busy machines; what
hangs in these tests hangs for a minute."""

HASTY = Patience(open_s=5.0, stall_s=0.4, first_wait_s=0.02, longest_wait_s=0.1)


@pytest.fixture
def camera() -> Iterator[MjpegCamera]:
    made = MjpegCamera()
    yield made
    made.close()


def _live(url: str, patience: Patience = HASTY, *, rate_hz: float = 0.0) -> Stream:
    opened = partial(open_video, url, open_s=patience.open_s, read_s=patience.stall_s)
    return Stream(LiveVideo("door", opened, patience=patience, rate_hz=rate_hz, draw=lambda: 0.0))


def _number(frame: Frame | FrameError) -> int:
    assert isinstance(frame, Frame)
    assert isinstance(frame.data, np.ndarray)
    return number_in(frame.data)


def _until(frames: Iterator[Frame | FrameError], kind: type[Frame] | type[FrameError]) -> Frame | FrameError:
    return next(one for one in frames if isinstance(one, kind))


def test_network_camera_is_read_in_rgb_order(camera: MjpegCamera, stop: threading.Event) -> None:
    numbers = [_number(frame) for frame in itertools.islice(_live(camera.url).frames(stop), 5)]
    assert numbers == sorted(numbers)


def test_rtsp_camera_is_read(stop: threading.Event) -> None:
    camera = RtspCamera()
    frames = open_source(camera.url, IMAGE, ()).frames(stop)
    first, second = _number(next(frames)), _number(next(frames))
    frames.close()
    camera.close()
    assert first < second


def test_name_of_a_camera_holds_no_password(stop: threading.Event) -> None:
    camera = RtspCamera()
    frames = open_source(camera.url, IMAGE, ()).frames(stop)
    name = next(frames).name
    frames.close()
    camera.close()
    assert name.startswith(f"rtsp://127.0.0.1:{camera.port}/cam#")


def test_slow_consumer_gets_the_newest_frame_and_the_gap_is_counted(camera: MjpegCamera, stop: threading.Event) -> None:
    source = _live(camera.url)
    frames = source.frames(stop)
    first = next(frames)
    before = camera.sent
    camera.wait_until_sent(before + 40)
    camera.stall()
    camera.wait_until_sent(before + 40)
    second = next(frames)
    assert isinstance(second, Frame)
    # Of 40 frames, a few may still be on their way through FFmpeg when the consumer asks.
    assert _number(second) - _number(first) == second.missed + 1 >= 30
    assert source.counts.dropped >= second.missed
    frames.close()


def test_frames_ascend_however_slow_the_consumer_is(camera: MjpegCamera, stop: threading.Event) -> None:
    source = _live(camera.url)
    numbers, missed = [], 0
    for frame in source.frames(stop):
        assert isinstance(frame, Frame)
        numbers.append(_number(frame))
        missed += frame.missed
        camera.wait_until_sent(camera.sent + 7)
        if len(numbers) == 6:
            break
    assert numbers == sorted(set(numbers))
    assert source.counts.dropped == missed > 0


def test_stalled_camera_is_opened_again(camera: MjpegCamera, stop: threading.Event) -> None:
    source = _live(camera.url)
    frames = source.frames(stop)
    next(frames)
    camera.stall()
    told = _until(frames, FrameError)
    assert isinstance(told, FrameError)
    assert isinstance(told.error, Unavailable)
    camera.resume()
    assert isinstance(_until(frames, Frame), Frame)
    assert (source.counts.stalled, source.counts.reopened) == (1, 1)
    frames.close()


def test_dropped_connection_is_made_again(camera: MjpegCamera, stop: threading.Event) -> None:
    source = _live(camera.url)
    frames = source.frames(stop)
    next(frames)
    camera.drop()
    told = _until(frames, FrameError)
    assert "connection was lost" in str(told.error)
    assert isinstance(_until(frames, Frame), Frame)
    assert (source.counts.stalled, source.counts.reopened, source.counts.errors) == (0, 1, 1)
    frames.close()


def test_camera_that_vanishes_is_told_once_and_waited_for(camera: MjpegCamera, stop: threading.Event) -> None:
    source = _live(camera.url)
    frames = source.frames(stop)
    next(frames)
    camera.vanish()
    _until(frames, FrameError)
    comes_back = threading.Timer(0.5, camera.come_back)  # while the source tries, every 0.1 s
    comes_back.start()
    assert isinstance(next(frames), Frame)
    assert (source.counts.errors, source.counts.reopened) == (1, 1)
    frames.close()


def test_camera_that_is_not_there_yet_is_waited_for(camera: MjpegCamera, stop: threading.Event) -> None:
    camera.vanish()
    source = _live(camera.url)
    frames = source.frames(stop)
    assert isinstance(next(frames), FrameError)
    camera.come_back()
    assert isinstance(next(frames), Frame)
    assert source.counts.reopened == 0
    frames.close()


def test_waits_grow_while_a_camera_flaps(camera: MjpegCamera, stop: threading.Event) -> None:
    tried_s: list[float] = []

    def opened() -> Capture | None:
        tried_s.append(time.monotonic())
        return None

    patience = Patience(first_wait_s=0.02, longest_wait_s=0.16)
    source = Stream(LiveVideo("door", opened, patience=patience, draw=lambda: 1.0))
    threading.Timer(0.8, stop.set).start()
    list(source.frames(stop))
    waits_s = np.diff(tried_s)[:5]
    # A wait is never shorter than it was told; how much longer it is, the machine decides.
    assert (waits_s >= np.array([0.02, 0.04, 0.08, 0.16, 0.16]) - 0.005).all()
    assert len(tried_s) <= 10


def test_stop_is_heeded_within_a_second_though_the_camera_hangs(camera: MjpegCamera, stop: threading.Event) -> None:
    frames = _live(camera.url, Patience(stall_s=60.0)).frames(stop)
    next(frames)
    camera.stall()
    stopping = threading.Timer(0.2, stop.set)
    began_s = time.monotonic()
    stopping.start()
    list(frames)
    assert stop.is_set()
    assert time.monotonic() - began_s < 0.2 + PROMPT_S


def test_end_is_heeded_within_a_second_though_the_camera_never_answers(stop: threading.Event) -> None:
    camera = MjpegCamera()
    camera.stall()
    frames = _live(camera.url, Patience(open_s=60.0)).frames(stop)
    asked = threading.Thread(target=lambda: (camera.wait_until_asked(1), stop.set()))
    asked.start()
    began_s = time.monotonic()
    assert list(frames) == []
    took_s = time.monotonic() - began_s
    asked.join()
    camera.close()
    assert took_s < PROMPT_S


def test_rate_of_a_camera_is_kept(camera: MjpegCamera, stop: threading.Event) -> None:
    source = _live(camera.url, rate_hz=20.0)
    frames = list(itertools.islice(source.frames(stop), 6))
    times_s = [frame.at_s for frame in frames]
    # Arrival times of 100 frames a second, of which every fifth is due; five intervals of 50 ms.
    assert times_s[-1] - times_s[0] >= 5 * 0.05 - 0.01
    assert source.counts.skipped > 0
    for before, after in itertools.pairwise(frames):
        assert isinstance(after, Frame)
        assert _number(after) - _number(before) == after.missed + 1


def test_nothing_is_written_to_standard_error(
    camera: MjpegCamera, stop: threading.Event, capfd: pytest.CaptureFixture[str]
) -> None:
    frames = _live(camera.url).frames(stop)
    next(frames)
    camera.stall()
    _until(frames, FrameError)
    frames.close()
    assert capfd.readouterr().err == ""


_TIME_TO_SEE_S = 2.0  # until it is opened again: a frame that came by then would take the place of what went wrong


class _Hanging:
    """A Capture whose reads hang, as FFmpeg's can whatever it was told, until it is let go."""

    def __init__(self, let_go: threading.Event) -> None:
        self._let_go = let_go

    def grab(self) -> bool:
        self._let_go.wait()
        return False

    def pixels(self) -> Pixels | None:
        return None

    def at_s(self) -> float:
        return 0.0

    def frame_count(self) -> int:
        return 0

    def close(self) -> None:
        pass


class _Steady(_Hanging):
    """A Capture that gives one picture after another."""

    def grab(self) -> bool:
        return not self._let_go.wait(0.01)

    def pixels(self) -> Pixels | None:
        return picture(1)[:, :, ::-1]


class _Late(_Steady):
    """A Capture whose one frame comes only when FFmpeg's time is up: H.264 keeps one back, which is old by then."""

    def grab(self) -> bool:
        return not self._let_go.wait(0.3)

    def pixels(self) -> Pixels | None:
        return picture(9)[:, :, ::-1]


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def _opening(*captures: Capture) -> Callable[[], Capture]:
    return iter(captures).__next__


def test_read_that_hangs_is_left_behind(let_go: threading.Event, stop: threading.Event) -> None:
    patience = Patience(open_s=0.1, stall_s=0.1, grace_s=0.1, first_wait_s=_TIME_TO_SEE_S)
    source = Stream(LiveVideo("door", _opening(_Hanging(let_go), _Steady(let_go)), patience=patience))
    frames = source.frames(stop)
    assert isinstance(next(frames), FrameError)
    assert _number(next(frames)) == 1
    assert source.counts.stalled == 1
    frames.close()


def test_frame_that_comes_after_the_time_is_up_is_an_old_one(let_go: threading.Event, stop: threading.Event) -> None:
    patience = Patience(stall_s=0.2, first_wait_s=_TIME_TO_SEE_S)
    source = Stream(LiveVideo("door", _opening(_Late(let_go), _Steady(let_go)), patience=patience))
    frames = source.frames(stop)
    told = next(frames)
    assert isinstance(told, FrameError)
    assert "no frame came" in str(told.error)
    assert _number(next(frames)) == 1
    assert source.counts.stalled == 1
    frames.close()


def test_few_hanging_reads_are_left_behind_at_once(let_go: threading.Event, stop: threading.Event) -> None:
    patience = Patience(open_s=0.02, stall_s=0.02, grace_s=0.02, first_wait_s=0.01)
    opened: list[_Hanging] = []

    def hanging() -> Capture:
        opened.append(_Hanging(let_go))
        return opened[-1]

    threading.Timer(0.4, stop.set).start()
    list(Stream(LiveVideo("door", hanging, patience=patience)).frames(stop))
    assert len(opened) == 4


_LEAVES = """
import sys
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.runtime.sources.open import open_source
spec = InputSpec("image", Modality.IMAGE, (1, 32, 64, 3), "nhwc", (0.0, 1.0))
frames = open_source(sys.argv[1], spec, ()).frames()
next(frames)
print("seen", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("hangs", [True, False], ids=["while the camera hangs", "while frames come"])
def test_process_ends_at_once(
    camera: MjpegCamera, child: "Callable[..., subprocess.Popen[bytes]]", hangs: bool
) -> None:
    process = child(_LEAVES, camera.url)
    assert process.stdout is not None
    assert b"seen\n" in iter(process.stdout.readline, b"")
    if hangs:
        camera.stall()
    began_s = time.monotonic()
    _, told = process.communicate(b"\n", timeout=20)
    assert (process.returncode, told) == (0, b"")
    assert time.monotonic() - began_s < PROMPT_S
