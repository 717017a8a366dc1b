import tempfile
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cameras import jpeg
from specs import IMAGE, SERIES, SOUND, TENSOR

from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import Scale, Window
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.sources.names import without_secrets
from edgeloop.runtime.sources.open import input_kind, open_lasting, open_source
from edgeloop.runtime.sources.port import Frame

PNG = encode_png(np.zeros((2, 2, 3), np.uint8))


@pytest.mark.parametrize("rate_hz", [-1.0, float("nan"), float("inf")])
def test_rate_that_is_none_is_refused(rate_hz: float) -> None:
    with pytest.raises(InvalidInput, match="rate_hz"):
        open_source([], IMAGE, (), rate_hz=rate_hz)


@pytest.mark.parametrize("url", ["ftp://host/a.mp4", "file:///etc/passwd", "concat:///a", "udp://0.0.0.0:1"])
def test_unknown_scheme_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="rtsp"):
        open_source(url, IMAGE, ())


@pytest.mark.parametrize("url", ["rtsp://", "http:///video", "rtsp://[::1"])
def test_url_without_a_host_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        open_source(url, IMAGE, ())


@pytest.mark.parametrize("spec", [SOUND, SERIES], ids=["sound", "series"])
@pytest.mark.parametrize("source", ["rtsp://host/cam", "http://host/a.mp4"])
def test_video_url_is_for_images_only(source: str, spec: object) -> None:
    with pytest.raises(InvalidInput, match="gives images"):
        open_source(source, spec, ())  # type: ignore[arg-type]


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no /dev/shm")
@pytest.mark.timeout(30)
def test_pictures_in_memory_are_files_and_no_camera() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for place in (Path(folder), Path(folder, "0.png")):
            Path(folder, "0.png").write_bytes(PNG)
            assert [frame.name for frame in open_source(place, IMAGE, ()).frames(threading.Event())] == ["0.png"]


@pytest.mark.parametrize("source", [97, "97", "/dev/video97", Path("/dev/video97")], ids=str)
def test_camera_that_is_not_there_is_not_found(source: int | str | Path) -> None:
    with pytest.raises(NotFound, match="camera /dev/video97"):
        open_source(source, IMAGE, ())


def test_camera_that_is_followed_may_come_later(stop: threading.Event) -> None:
    frames = open_source("/dev/video97", IMAGE, (), follow=True).frames(stop)
    assert "cannot be opened" in str(next(frames).error)  # type: ignore[union-attr]
    stop.set()
    assert list(frames) == []


def test_folder_named_by_digits_goes_before_a_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: threading.Event
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "a.png").write_bytes(PNG)
    assert [frame.name for frame in open_source("0", IMAGE, ()).frames(stop)] == ["a.png"]


@pytest.mark.parametrize("spec", [IMAGE, SOUND, SERIES, TENSOR], ids=lambda spec: spec.modality)
def test_empty_name_is_not_the_folder_that_one_stands_in(spec: InputSpec) -> None:
    with pytest.raises(InvalidInput, match="empty name"):
        open_source("", spec, ())


def test_missing_path_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        open_source(tmp_path / "nowhere", IMAGE, ())


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(b"ID3")
    with pytest.raises(InvalidInput, match=r"\.wav"):
        open_source(tmp_path / "a.mp3", SOUND, ())


def test_image_file_is_one_frame_of_its_own_bytes(tmp_path: Path, stop: threading.Event) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (frame,) = open_source(tmp_path / "a.png", IMAGE, ()).frames(stop)
    assert isinstance(frame, Frame)
    assert (frame.name, frame.data, frame.media) == ("a.png", PNG, "image/png")


@pytest.mark.parametrize("name", ["a.png", "a.wav"])
def test_file_of_one_input_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PNG)
    with pytest.raises(InvalidInput, match="cannot be followed"):
        open_source(tmp_path / name, IMAGE if name == "a.png" else SOUND, (), follow=True)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://admin:p@ss@10.0.0.7:554/door?token=5#x", "rtsp://10.0.0.7:554/door"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("rtsp://host", "rtsp://host"),
    ],
)
def test_secrets_are_not_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_folder_is_followed_for_who_goes_on(tmp_path: Path, stop: threading.Event) -> None:
    frames = open_lasting(str(tmp_path), IMAGE, ()).frames(stop)
    threading.Timer(0.1, (tmp_path / "a.jpg").write_bytes, (jpeg(1),)).start()
    assert next(frames).name == "a.jpg"


def test_table_is_followed_for_who_goes_on_if_it_has_windows(tmp_path: Path, stop: threading.Event) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b"x,y\n1,2\n3,4\n")
    window = (Window(length=2, hop=1),)
    frames = open_lasting(str(table), SERIES, window).frames(stop)
    assert next(frames).name == "t.csv#000001"
    with table.open("ab") as file:
        file.write(b"5,6\n")
    assert next(frames).name == "t.csv#000002"
    assert [frame.name for frame in open_lasting(str(table), SERIES, ()).frames(stop)] == ["t.csv"]


def test_what_is_not_there_is_not_found_by_who_goes_on(tmp_path: Path) -> None:
    for name in ("nowhere", "clip.mp4", "t.csv", "/dev/video97"):
        with pytest.raises(NotFound):
            open_lasting(str(tmp_path / name), IMAGE, ())


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({}, True),
        ({"shape": (1, 800)}, True),
        ({"rate_hz": 16_000}, False),
        ({"modality": Modality.IMAGE}, False),
    ],
)
def test_versions_take_the_same_sound_if_they_cut_it_alike(change: dict[str, Any], is_same: bool) -> None:
    steps = (Window(length=400, hop=200), Scale(factor=2.0))
    other = msgspec.structs.replace(SOUND, **change)
    assert (input_kind(SOUND, steps) == input_kind(other, steps)) is is_same


def test_versions_of_other_windows_take_other_inputs_and_of_other_scales_the_same() -> None:
    one, two = Window(length=400, hop=200), Window(length=400, hop=100)
    assert input_kind(SOUND, (one,)) != input_kind(SOUND, (two,))
    assert input_kind(SOUND, (one, Scale(factor=2.0))) == input_kind(SOUND, (one,))
    assert input_kind(SERIES, (one,)) != input_kind(SERIES, (two,))
    assert input_kind(TENSOR, ()) != input_kind(msgspec.structs.replace(TENSOR, shape=(1, 4)), ())
    assert input_kind(IMAGE, ()) == input_kind(msgspec.structs.replace(IMAGE, shape=(1, 8, 8, 1)), ())
