"""What a device senses: real files, a real network camera and real models, with the device's loop on its thread."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cameras import MjpegCamera, number_in
from numpy.typing import NDArray

from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.messages import Alert
from edgeloop.contracts.preprocess import Window
from edgeloop.contracts.states import Reason
from edgeloop.runtime.input.images import decode_image, encode_png
from edgeloop.runtime.input.table import decode_rows
from edgeloop.runtime.input.wav import decode_wav, encode_wav
from edgeloop.runtime.sources.capture import open_video
from edgeloop.runtime.sources.live import LiveVideo, Patience
from edgeloop.runtime.sources.port import Counts, Frame, FrameError, FrameSource
from edgeloop.runtime.sources.stream import Stream
from sensed import EVERYTHING, RATE_HZ, Device, pictures, rows, series, sound, sounds

TESTS = Path(__file__).parents[2]
HASTY = Patience(open_s=5.0, stall_s=0.4, first_wait_s=0.02, longest_wait_s=0.1)


def _lines(start: int, stop: int) -> bytes:
    """Rows of x and y, which grow."""
    return b"".join(b"%d,%.2f\n" % (row, row / 4) for row in range(start, stop))


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _picture(which: str, *, seed: int = 0) -> NDArray[np.uint8]:
    pixels = np.random.default_rng(seed).integers(0, 60, (40, 30, 3)).astype(np.uint8)
    pixels[: 20 if which == "first" else None, :][-20:] += 120
    return pixels


def test_sounds_of_a_folder_are_answered_window_by_window_as_they_arrive(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "a.wav").write_bytes(encode_wav(sound("first", "second"), RATE_HZ))
    with Device(tmp_path, str(spool), sounds()) as device:
        device.until_read(2)
        (spool / "b.wav").write_bytes(encode_wav(sound("second"), RATE_HZ))
        made = device.until_read(3)
    assert [(one.source, one.prediction.label) for one in made] == [
        ("a.wav@00000.000s", "first"),
        ("a.wav@00000.050s", "second"),
        ("b.wav", "second"),
    ]
    assert made[1].prediction.at_s == 0.05


def test_table_is_followed_as_its_rows_arrive(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b"x,y\n" + _lines(0, 5))
    with Device(tmp_path, str(table), series()) as device:
        assert [one.source for one in device.until_read(1)] == ["t.csv#000001"]
        _append(table, _lines(5, 8))
        assert [one.source for one in device.until_read(3)] == ["t.csv#000001", "t.csv#000003", "t.csv#000005"]


def test_rows_of_a_table_are_inputs_of_a_model_that_takes_rows(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b"4,4,0,0\n0,0,4,4\n")
    with Device(tmp_path, str(table), rows()) as device:
        assert [one.prediction.label for one in device.until_read(2)] == ["first", "second"]


@pytest.fixture
def camera() -> Iterator[MjpegCamera]:
    made = MjpegCamera()
    yield made
    made.close()


def _live(camera: MjpegCamera) -> Callable[[Manifest, str], FrameSource]:
    """The camera opened as a device opens it, with less patience than its 10 s."""
    opened = partial(open_video, camera.url, open_s=HASTY.open_s, read_s=HASTY.stall_s)
    return lambda manifest, after: Stream(LiveVideo("door", opened, patience=HASTY))


def test_network_camera_that_stalls_is_told_and_read_again(tmp_path: Path, camera: MjpegCamera) -> None:
    with Device(tmp_path, camera.url, pictures(), opened=_live(camera)) as device:
        device.until_read(2)
        camera.stall()
        device.until(lambda: device.senses.health().trouble, "the stall")
        (alert,) = device.alerts()
        assert (alert.what, "opened again" in alert.detail) == ("source", True)
        assert device.senses.health().stalled >= 1
        assert device.loop.error_reason.startswith("door: ")
        before = device.loop.readings
        camera.resume()
        device.until_read(before + 1)
        health = device.senses.health()
    assert (health.trouble, health.reopened) == ("", 1)
    assert device.loop.errors == 1


def test_network_camera_is_opened_by_its_url(tmp_path: Path, camera: MjpegCamera) -> None:
    with Device(tmp_path, camera.url, pictures(), select=EVERYTHING) as device:
        device.until_read(3)
        sample = device.samples()[0]
    assert sample.media == "image/png"
    assert number_in(decode_image(sample.data, what="sample")) >= 0


def test_sound_that_is_sent_is_the_window_that_was_answered(tmp_path: Path) -> None:
    clip = tmp_path / "a.wav"
    given = sound("first", "second")
    clip.write_bytes(encode_wav(given, RATE_HZ))
    with Device(tmp_path, str(clip), sounds(), select=EVERYTHING) as device:
        device.until_read(2)
        samples = device.samples()
    assert [(one.source, one.media, one.reason) for one in samples] == [
        ("a.wav@00000.000s", "audio/wav", Reason.AUDIT),
        ("a.wav@00000.050s", "audio/wav", Reason.AUDIT),
    ]
    for sample, window in zip(samples, np.split(given, 2), strict=True):
        heard = decode_wav(sample.data)
        assert heard.rate_hz == RATE_HZ
        np.testing.assert_array_equal(heard.samples, window)


def test_series_that_is_sent_is_the_window_that_was_answered(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b"y,x\n0.1,1\n0.2,2\n,3\n0.4,4\n")
    with Device(tmp_path, str(table), series(), select=EVERYTHING) as device:
        # Nothing fills the missing value, so it is no reading; what is whole is sent.
        _append(table, b"0.5,5\n0.6,6\n0.7,7\n0.8,8\n")
        device.until_read(1)
        device.until(lambda: device.loop.errors == 2, "both windows with a missing value")
        (sample,) = device.samples()
    assert (sample.source, sample.media) == ("t.csv#000005", "text/csv")
    expected = np.array([[5, 0.5], [6, 0.6], [7, 0.7], [8, 0.8]], np.float32)
    np.testing.assert_array_equal(decode_rows(sample.data, channels=("x", "y")), expected)


def test_source_that_is_not_there_is_told_once_and_opened_when_it_comes(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    with Device(tmp_path, str(spool), pictures()) as device:
        device.until(lambda: device.senses.health().trouble, "the missing folder")
        spool.mkdir()
        (spool / "a.png").write_bytes(encode_png(_picture("first")))
        device.until_read(1)
        assert device.senses.health().trouble == ""
        (alert,) = device.alerts()
    assert (alert.what, "there is no file, folder or camera" in alert.detail) == ("source", True)
    assert device.loop.errors == 1


def test_folder_that_is_unplugged_is_told_and_read_on_when_it_is_back(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    (spool / "a.png").write_bytes(encode_png(_picture("first")))
    with Device(tmp_path, str(spool), pictures()) as device:
        device.until_read(1)
        (spool / "a.png").unlink()
        spool.rmdir()
        device.until(lambda: device.senses.health().trouble, "the missing folder")
        spool.mkdir()
        device.until(lambda: not device.senses.health().trouble, "the folder that is back")
        (spool / "b.png").write_bytes(encode_png(_picture("second")))
        assert [one.source for one in device.until_read(2)] == ["a.png", "b.png"]


def test_clip_is_read_once_and_its_end_is_told(tmp_path: Path) -> None:
    clip = tmp_path / "a.wav"
    clip.write_bytes(encode_wav(sound("first", "second"), RATE_HZ))
    with Device(tmp_path, str(clip), sounds()) as device:
        device.until(lambda: device.senses.health().trouble, "the end")
        assert device.senses.health().trouble.endswith("has come to its end")
        # A version that takes the same has nothing to read anew; one of other windows has.
        watch = device.run(sounds())
        device.run(sounds(Window(length=200, hop=200)))
        made = device.until_read(6)
    assert watch.stats().readings == 0
    assert [one.source for one in made[2:]] == [f"a.wav@{at_s:09.3f}s" for at_s in (0.0, 0.025, 0.05, 0.075)]
    assert len(made) == 6


def test_version_of_other_windows_goes_on_where_the_one_before_it_was(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b"x,y\n" + _lines(0, 8))
    with Device(tmp_path, str(table), series()) as device:
        device.until_read(3)
        device.run(series(Window(length=2, hop=2)))
        _append(table, _lines(8, 10))
        made = device.until_read(5)
    assert [one.source for one in made[3:]] == ["t.csv#000007", "t.csv#000009"]


def test_table_that_vanishes_is_told_and_read_on_when_it_is_back(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b"x,y\n" + _lines(0, 8))
    with Device(tmp_path, str(table), series()) as device:
        device.until_read(3)
        table.rename(tmp_path / "elsewhere")
        device.until(lambda: device.alerts(), "the alert")
        assert device.alerts() == [Alert(what="source", detail="t.csv is no longer there")]
        assert device.senses.health().trouble == "t.csv is no longer there"
        (tmp_path / "elsewhere").rename(table)
        _append(table, _lines(8, 12))
        made = device.until_read(5)
        assert (device.senses.health().trouble, device.senses.health().reopened) == ("", 1)
    assert [one.source for one in made[3:]] == ["t.csv#000007", "t.csv#000009"]


def test_another_table_of_the_name_of_one_that_vanished_is_read_from_its_beginning(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b"x,y\n" + _lines(0, 8))
    with Device(tmp_path, str(table), series()) as device:
        device.until_read(3)
        table.rename(tmp_path / "elsewhere")
        device.until(lambda: device.alerts(), "the alert")
        table.write_bytes(b"x,y\n" + _lines(0, 10))
        made = device.until_read(7)
    assert [one.source for one in made[3:]] == [f"t.csv#00000{row}" for row in (1, 3, 5, 7)]


def test_version_of_another_input_than_the_source_gives_is_told_and_fails_its_watch(tmp_path: Path) -> None:
    clip = tmp_path / "a.wav"
    clip.write_bytes(encode_wav(sound("first"), RATE_HZ))
    with Device(tmp_path, str(clip), sounds()) as device:
        device.until_read(1)
        watch = device.run(pictures())
        device.until(lambda: watch.stats().errors, "the failure")
        assert "which is what the bundle takes" in device.senses.health().trouble
        # Back to the version before: the clip is its again.
        device.run(sounds())
        device.until_read(2)
        assert [one.what for one in device.alerts()] == ["source"]


def test_shadow_that_takes_other_inputs_is_not_asked(tmp_path: Path) -> None:
    clip = tmp_path / "a.wav"
    clip.write_bytes(encode_wav(sound("first", "second"), RATE_HZ))
    device = Device(tmp_path, str(clip), None)
    watch = device.run(sounds(), shadow=sounds(Window(length=200, hop=200)))
    with device:
        made = device.until_read(2)
    assert [one.shadow_label for one in made] == [None, None]
    assert (watch.stats().disagreements, watch.stats().errors) == (0, 0)


class Broken:
    """A source that breaks in a way that nobody foresaw, once; then it gives frames."""

    counts = Counts()

    def __init__(self) -> None:
        self.opened = 0

    def __call__(self, manifest: Manifest, after: str) -> FrameSource:
        self.opened += 1
        return self

    def frames(self, stop: threading.Event | None = None) -> Iterator[Frame | FrameError]:
        """See FrameSource."""
        if self.opened == 1:
            raise RuntimeError("nobody foresaw this")
        yield Frame("a", _picture("first"), 0.0, "image/raw")
        assert stop is not None
        stop.wait()


def test_source_that_breaks_does_not_end_the_loop(tmp_path: Path) -> None:
    broken = Broken()
    with Device(tmp_path, "broken", pictures(), opened=broken) as device:
        device.until_read(1)
    assert (broken.opened, device.loop.errors) == (2, 1)


AGENT = """
import sys
from pathlib import Path
from sensed import Device, series
folder = Path(sys.argv[1])
with Device(folder, str(folder / "t.csv"), series()) as device:
    while True:
        device.until_read(device.loop.readings + 1)
        print("answered", flush=True)
"""


def _reader(folder: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    return subprocess.Popen(
        [sys.executable, "-c", AGENT, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_table_is_read_on_after_a_kill_with_each_window_answered_once(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b"x,y\n")
    for part in range(3):
        _append(table, _lines(10 * part, 10 * part + 10))
        with _reader(tmp_path) as process:
            assert process.stdout is not None
            assert "answered\n" in iter(process.stdout.readline, "")
            process.send_signal(signal.SIGKILL)
    with Device(tmp_path, str(table), series()) as device:
        device.until(lambda: len(device.readings()) >= 14, "reading the table")
        made = device.readings()
    assert [one.source for one in made] == [f"t.csv#{row:06d}" for row in range(1, 28, 2)]


def test_table_that_began_anew_while_nobody_read_is_read_from_its_beginning(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b"x,y\n" + _lines(0, 20))
    with Device(tmp_path, str(table), series()) as device:
        device.until_read(9)
    table.write_bytes(b"x,y\n" + _lines(0, 4))
    with Device(tmp_path, str(table), series()) as device:
        assert device.until_read(1)[-1].source == "t.csv#000001"


def test_table_that_was_rotated_while_nobody_read_is_read_from_its_beginning(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b"x,y\n" + _lines(0, 8))
    with Device(tmp_path, str(table), series()) as device:
        device.until_read(3)
    table.rename(tmp_path / "t.csv.1")
    table.write_bytes(b"x,y\n" + _lines(100, 120))
    with Device(tmp_path, str(table), series()) as device:
        device.until_read(9)
        assert [one.source for one in device.readings()[3:5]] == ["t.csv#000001", "t.csv#000003"]


def test_another_folder_is_read_from_its_beginning(tmp_path: Path) -> None:
    for name, file in (("one", "b.png"), ("two", "a.png")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(encode_png(_picture("first")))
        with Device(tmp_path, str(tmp_path / name), pictures()) as device:
            assert device.until_read(1)[-1].source == file


def test_folder_is_read_on_after_the_window_of_the_earlier_run(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    clip = encode_wav(sound("first", "second", "second"), RATE_HZ)
    (spool / "a.wav").write_bytes(clip)
    with Device(tmp_path, str(spool), sounds()) as device:
        device.until_read(3)
        device.outbox.append([device.readings()[1]], at_ms=0)  # as if the third had never been written down
    (spool / "b.wav").write_bytes(encode_wav(sound("first"), RATE_HZ))
    with Device(tmp_path, str(spool), sounds()) as device:
        device.until_read(2)
        made = device.readings()
    assert [one.source for one in made[4:]] == ["a.wav@00000.100s", "b.wav"]
