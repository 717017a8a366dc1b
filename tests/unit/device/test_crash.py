import subprocess
import sys
from pathlib import Path

import pytest

_DIES = """
import os, signal, sys
from pathlib import Path
from edgeloop.device.crash import arm

def answer():
    os.kill(os.getpid(), int(sys.argv[2]))

arm(Path(sys.argv[1]))
answer()
"""


def _died_of(folder: Path, number: int) -> int:
    done = subprocess.run([sys.executable, "-c", _DIES, str(folder), str(number)], timeout=60, check=False)
    return done.returncode


def _read(folder: Path) -> str:
    """What the next process finds; read in one of its own, since a process is armed once."""
    script = (
        "import sys; from pathlib import Path; from edgeloop.device.crash import arm; print(arm(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", script, str(folder)]
    return subprocess.run(command, timeout=60, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="signals' numbers are Linux's")
@pytest.mark.parametrize(
    ("number", "name"), [(11, "Segmentation fault"), (6, "Aborted"), (8, "Floating point exception")]
)
def test_fatal_error_is_known_at_the_next_start_and_where_it_was(tmp_path: Path, number: int, name: str) -> None:
    assert _died_of(tmp_path, number) == -number, "it dies as it would have"
    assert _read(tmp_path).startswith(f"{name} in ")
    assert _read(tmp_path) == "", "it is told once"


@pytest.mark.skipif(sys.platform != "linux", reason="signals' numbers are Linux's")
@pytest.mark.parametrize("number", [9, 15])
def test_kill_leaves_nothing(tmp_path: Path, number: int) -> None:
    assert _died_of(tmp_path, number) == -number
    assert _read(tmp_path) == ""


def test_first_start_finds_nothing(tmp_path: Path) -> None:
    assert _read(tmp_path) == ""


def test_what_is_no_report_of_ours_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "crash.txt").write_bytes(b"\xff something else\n")
    assert "something else" in _read(tmp_path)
