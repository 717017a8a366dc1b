import itertools
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from cameras import jpeg
from specs import IMAGE

from edgeloop.contracts.errors import NotFound, Unavailable
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.sources.files import Folder, looks_whole
from edgeloop.runtime.sources.open import open_source
from edgeloop.runtime.sources.pictures import PictureCut
from edgeloop.runtime.sources.port import Frame, FrameError
from edgeloop.runtime.sources.stream import Stream

RNG = np.random.default_rng(1)
PNG = encode_png(RNG.integers(0, 255, (16, 16, 3)).astype(np.uint8))


def _fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(PNG)


def _names(frames: Iterator[Frame | FrameError], count: int) -> list[str]:
    return [frame.name for frame in itertools.islice(frames, count)]


def _folder(
    folder: Path, *, follow: bool = True, after: str = "", settle_s: float = 2.0, patience_s: float = 60.0
) -> Stream:
    reader = Folder(folder, PictureCut(), follow=follow, after=after, settle_s=settle_s, patience_s=patience_s)
    return Stream(reader)


def test_files_come_in_name_order_and_end(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, "b.png", "c.png", "a.png", ".hidden.png", "d.txt")
    (tmp_path / "e.png").mkdir()
    source = open_source(tmp_path, IMAGE, ())
    frames = list(source.frames(stop))
    assert [frame.name for frame in frames] == ["a.png", "b.png", "c.png"]
    assert (source.counts.frames, source.counts.errors) == (3, 0)


def test_frame_is_the_files_own_bytes(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, "a.png")
    (frame,) = open_source(tmp_path, IMAGE, ()).frames(stop)
    assert isinstance(frame, Frame)
    assert (frame.data, frame.media) == (PNG, "image/png")


def test_folder_without_inputs_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"\.png"):
        open_source(tmp_path, IMAGE, ())


def test_new_files_are_followed(tmp_path: Path, stop: threading.Event) -> None:
    frames = open_source(tmp_path, IMAGE, (), follow=True).frames(stop)
    arrival = threading.Timer(0.1, _fill, (tmp_path, "a.png"))
    arrival.start()
    assert next(frames).name == "a.png"
    _fill(tmp_path, "b.png")
    assert next(frames).name == "b.png"


def test_file_that_comes_to_an_old_folder_is_seen(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, "a.png")
    for path in (tmp_path / "a.png", tmp_path):
        os.utime(path, (1e9, 1e9))  # has rested for long: it is not listed again until it changes
    frames = _folder(tmp_path).frames(stop)
    assert next(frames).name == "a.png"
    arrival = threading.Timer(0.3, _fill, (tmp_path, "b.png"))
    arrival.start()
    assert next(frames).name == "b.png"


def test_file_that_comes_while_a_folder_is_listed_is_not_passed_over(
    tmp_path: Path, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ext4 lists: by hashes of names, so that of two that come meanwhile it may show the later one alone."""
    honest = Path.iterdir
    listings = itertools.count()

    def listed(folder: Path) -> Iterator[Path]:
        if next(listings) == 0:
            _fill(folder, "a.png", "b.png")
            return iter([folder / "b.png"])
        return honest(folder)

    monkeypatch.setattr(Path, "iterdir", listed)
    frames = _folder(tmp_path).frames(stop)
    assert _names(frames, 2) == ["a.png", "b.png"]


def test_file_that_comes_within_the_grain_of_the_folders_time_is_seen(
    tmp_path: Path, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where whoever takes the frames is slower than that grain."""
    _fill(tmp_path, "a.png")
    stamp_ns = tmp_path.stat().st_mtime_ns
    frames = _folder(tmp_path).frames(stop)
    assert next(frames).name == "a.png"
    _fill(tmp_path, "b.png")
    os.utime(tmp_path, ns=(stamp_ns, stamp_ns))
    monkeypatch.setattr(time, "time_ns", lambda: stamp_ns + 3 * 10**9)
    assert next(frames).name == "b.png"


def test_earlier_run_is_taken_up_after_its_last_name(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, "a.png", "b.png", "c.png")
    assert _names(_folder(tmp_path, after="b.png").frames(stop), 1) == ["c.png"]


def test_file_that_vanishes_is_told(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, "a.png", "b.png", "c.png")
    frames = open_source(tmp_path, IMAGE, ()).frames(stop)
    next(frames)
    (tmp_path / "b.png").unlink()
    told, last = frames
    assert isinstance(told, FrameError)
    assert isinstance(told.error, NotFound)
    assert last.name == "c.png"


@pytest.mark.parametrize("cut_at", [0, 1, 10, len(PNG) // 2, len(PNG) - 1])
def test_file_that_is_still_written_is_not_read_half(tmp_path: Path, stop: threading.Event, cut_at: int) -> None:
    (tmp_path / "a.png").write_bytes(PNG[:cut_at])
    frames = _folder(tmp_path, settle_s=5.0).frames(stop)
    rest = threading.Timer(0.2, (tmp_path / "a.png").write_bytes, (PNG,))
    rest.start()
    frame = next(frames)
    assert isinstance(frame, Frame)
    assert frame.data == PNG


def test_whole_file_is_not_waited_for(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, "a.png")
    began_s = time.monotonic()
    next(_folder(tmp_path, settle_s=60.0).frames(stop))
    assert time.monotonic() - began_s < 10.0


def test_file_that_stays_half_is_handed_over_as_it_is(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.png").write_bytes(PNG[:50])
    (frame,) = _folder(tmp_path, follow=False, settle_s=0.2).frames(stop)
    assert isinstance(frame, Frame)
    assert frame.data == PNG[:50]


def test_old_half_file_is_not_waited_for(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.png").write_bytes(PNG[:50])
    os.utime(tmp_path / "a.png", (1e9, 1e9))
    began_s = time.monotonic()
    next(_folder(tmp_path, settle_s=60.0).frames(stop))
    assert time.monotonic() - began_s < 10.0


def test_file_from_the_future_is_handed_over(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.png").write_bytes(PNG[:50])
    os.utime(tmp_path / "a.png", (4e9, 4e9))  # the clock was set back since
    assert isinstance(next(_folder(tmp_path, settle_s=0.2).frames(stop)), Frame)


def test_file_that_is_written_for_ever_is_passed_over(tmp_path: Path, stop: threading.Event) -> None:
    path = tmp_path / "a.png"
    _fill(tmp_path, "b.png")
    written = threading.Event()

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            while not written.wait(0.01):
                file.write(b"x")

    path.touch()
    writer = threading.Thread(target=write)
    writer.start()
    told, frame = _folder(tmp_path, follow=False, settle_s=0.3, patience_s=0.5).frames(stop)
    written.set()
    writer.join()
    assert isinstance(told, FrameError)
    assert isinstance(told.error, Unavailable)
    assert frame.name == "b.png"


@pytest.mark.parametrize(
    ("data", "is_whole"),
    [
        (PNG, True),
        (PNG[:-1], False),
        (jpeg(1), True),
        (jpeg(1)[:-1], False),
        (b"RIFF\4\0\0\0WAVE", True),
        (b"RIFF\5\0\0\0WAVE", False),
        (b"RIFF\0\0\0\0WAVE", False),
        (b"BM\x08\0\0\0\0\0", True),
        (b"BM\x09\0\0\0\0\0", False),
        (b"", False),
        (b"x,y\n1,2\n", False),
    ],
)
def test_end_of_a_format_is_known(tmp_path: Path, data: bytes, is_whole: bool) -> None:
    (tmp_path / "a").write_bytes(data)
    assert looks_whole(tmp_path / "a", len(data)) is is_whole


def test_stop_is_heeded_while_a_folder_is_empty(tmp_path: Path, stop: threading.Event) -> None:
    threading.Timer(0.1, stop.set).start()
    assert list(open_source(tmp_path, IMAGE, (), follow=True).frames(stop)) == []


def test_folder_that_goes_is_told_once_and_read_again_when_it_comes(tmp_path: Path, stop: threading.Event) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    _fill(folder, "a.png")
    source = _folder(folder)
    frames = source.frames(stop)
    next(frames)
    (folder / "a.png").unlink()
    folder.rmdir()

    def come_back() -> None:
        folder.mkdir()
        _fill(folder, "b.png")

    lost = next(frames)
    assert isinstance(lost, FrameError)
    assert lost.is_lost
    threading.Timer(0.2, come_back).start()
    assert next(frames).name == "b.png"
    assert (source.counts.errors, source.counts.reopened) == (1, 1)


def test_rate_of_a_folder_is_kept(tmp_path: Path, stop: threading.Event) -> None:
    _fill(tmp_path, *(f"{index}.png" for index in range(5)))
    began_s = time.monotonic()
    assert len(list(open_source(tmp_path, IMAGE, (), rate_hz=20.0).frames(stop))) == 5
    # Five frames have four whole intervals of 50 ms between them, however slow the machine is.
    assert time.monotonic() - began_s >= 4 / 20.0 - 0.005


def test_standard_input_is_one_image(stop: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, PNG)
    os.close(writing)
    with os.fdopen(reading) as given:
        monkeypatch.setattr("sys.stdin", given)
        (frame,) = open_source("-", IMAGE, ()).frames(stop)
    assert isinstance(frame, Frame)
    assert (frame.name, frame.data, frame.media) == ("stdin", PNG, "image/png")


_LEAVES = """
from edgeloop.runtime.sources.open import open_source
from edgeloop.contracts.manifest import InputSpec, Modality
spec = InputSpec("image", Modality.IMAGE, (1, 32, 64, 3), "nhwc", (0.0, 1.0))
frame = next(open_source("-", spec, (), follow=True).frames())
print(frame.name, frame.media, len(frame.data), flush=True)
"""


def test_process_ends_though_standard_input_stays_open(child: "Callable[..., subprocess.Popen[bytes]]") -> None:
    process = child(_LEAVES)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(jpeg(0) + jpeg(1)[:20])
    process.stdin.flush()
    assert process.stdout.readline().decode() == f"stdin#000001 image/jpeg {len(jpeg(0))}\n"
    assert (process.wait(timeout=20), process.stderr.read()) == (0, b"")
