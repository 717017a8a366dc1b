import subprocess
import sys

import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.sources.names import check_lasting, scheme_of, shown


@pytest.mark.parametrize(
    "source",
    ["0", "/dev/video0", "rtsp://10.0.0.7/door", "HTTP://host:80/v", "clip.mp4", "folder/", "nowhere yet", "a.wav"],
)
def test_what_may_come_is_taken(source: str) -> None:
    check_lasting(source)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("ftp://host/a", "ftp:// is not read; expected rtsp"),
        ("x://", "x:// is not read"),
        ("rtsp://", "names no host"),
        ("rtsp:///door", "names no host"),
        ("rtsp://host:port/door", "cannot be read"),
        ("http://[::1/a", "cannot be read"),
        ("-", "standard input"),
        ("", "expected a camera"),
        ("a\0b", "expected a camera"),
    ],
)
def test_what_can_never_be_a_source_is_refused(source: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        check_lasting(source)


def test_path_is_no_url() -> None:
    assert [scheme_of(one) for one in ("a/b", "C:\\a", "0", "//host/a", "RTSP://h/a")] == [None] * 4 + ["rtsp"]


def test_path_is_shown_as_it_is_and_a_url_without_its_secrets() -> None:
    assert shown("/dev/video0") == "/dev/video0"
    assert shown("rtsp://me:word@h/a?key=1") == "rtsp://h/a"


def test_a_name_is_checked_without_numpy_and_opencv() -> None:
    code = (
        "import sys; from edgeloop.runtime.sources.names import check_lasting; check_lasting('rtsp://h/a'); "
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert {"numpy", "cv2"}.isdisjoint(done.stdout.split())
