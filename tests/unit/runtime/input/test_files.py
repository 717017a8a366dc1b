import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeloop.contracts.errors import InvalidInput, NotFound, Unavailable
from edgeloop.runtime.input.files import read_bounded
from edgeloop.runtime.input.images import read_image
from edgeloop.runtime.input.table import read_rows
from edgeloop.runtime.input.wav import read_wav


@pytest.mark.parametrize("kind", [str, Path])
def test_file_is_read_whole_up_to_its_bound(tmp_path: Path, kind: Callable[[Path], Any]) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    assert read_bounded(kind(tmp_path / "a"), what="sound", most_bytes=4) == b"1234"


def test_file_beyond_its_bound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    with pytest.raises(InvalidInput, match="has 5 bytes; the file of one sound has at most 4"):
        read_bounded(tmp_path / "a", what="sound", most_bytes=4)


@pytest.mark.parametrize("read", [read_image, read_wav, read_rows])
def test_what_is_no_file_is_not_found(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(NotFound, match=r"no (image|sound|table) at "):
            read(path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that is there and cannot be read")
def test_file_that_cannot_be_read_is_unavailable() -> None:
    with pytest.raises(Unavailable, match=f"the image /proc/{os.getpid()}/mem cannot be read"):
        read_image(f"/proc/{os.getpid()}/mem")
