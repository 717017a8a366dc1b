from pathlib import Path

import numpy as np
import pytest

from edgeloop.contracts.errors import Corrupt
from edgeloop.runtime.sources.place import Place, has_lines, place_of
from edgeloop.runtime.sources.port import Frame, FrameError


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a.wav", Place("a.wav")),
        ("a.wav@00001.500s", Place("a.wav", 1.5)),
        ("a#1@2.wav@123456.000s", Place("a#1@2.wav", 123456.0)),
        ("b.WAV#000042", Place("b.WAV", 42.0)),
        ("b.wav#1234567", Place("b.wav", 1234567.0)),
        ("clip#000042.wav", Place("clip#000042.wav")),
        ("rtsp://host/door#000042", Place()),
        ("t.csv#000042", Place()),
        ("", Place()),
    ],
)
def test_place_is_read_from_a_frames_name(name: str, place: Place) -> None:
    assert place_of(name, (".wav",)) == place


def test_what_came_before_a_place_is_passed_over() -> None:
    rows = np.zeros((1, 1), np.float32)
    frames = [Frame(f"t.csv#{row:06d}", rows, 0.0, "series/raw") for row in (1, 3, 5, 7)]
    early, late = (FrameError(f"t.csv#{row}", Corrupt("no number"), 0.0) for row in (2, 6))
    given = [frames[0], early, *frames[1:3], late, frames[3]]
    assert list(Place("t.csv", 4.0).beyond(given)) == [frames[2], late, frames[3]]
    assert list(Place("t.csv").beyond(given)) == given


@pytest.mark.parametrize(("data", "lines"), [(b"", 0), (b"a", 0), (b"a\nb\n", 2), (b"a\n" * 600_000 + b"b", 600_000)])
def test_lines_that_have_ended_are_counted(tmp_path: Path, data: bytes, lines: int) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    assert has_lines(tmp_path / "t.csv", lines)
    assert not has_lines(tmp_path / "t.csv", lines + 1)


def test_file_that_is_gone_has_no_lines(tmp_path: Path) -> None:
    assert not has_lines(tmp_path / "t.csv", 1)
