"""How commands end when whoever reads what they say has left: real processes on real pipes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builders import make_bundle, quadrant_images
from edgeloop.cli.ending import READER_LEFT
from edgeloop.runtime.input.images import encode_png


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    make_bundle(folder)
    (folder / "pictures").mkdir()
    image = encode_png(quadrant_images(1, seed=3)[0])
    for index in range(600):  # several times what a pipe holds
        (folder / "pictures" / f"{index:03d}.png").write_bytes(image)
    return folder


@pytest.fixture
def nobody() -> Iterator[int]:
    """A pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


PREDICT = ("predict", "tiny-1.0.0.edgeloop", "pictures", "--race-s", "0")


@pytest.mark.parametrize(
    "arguments",
    [
        (*PREDICT, "--json"),
        PREDICT,
        ("inspect", "tiny-1.0.0.edgeloop"),
        ("inspect", "tiny-1.0.0.edgeloop", "--json"),
        ("--version",),
        ("predict", "--help"),
    ],
    ids=" ".join,
)
def test_command_that_nobody_reads_ends_quietly(arguments: tuple[str, ...], work: Path, nobody: int) -> None:
    done = _start(arguments, work, stdout=nobody)
    assert (done.communicate(timeout=60)[1], done.returncode) == (b"", READER_LEFT)


@pytest.mark.parametrize("command", ["predict", "watch"])
def test_reader_that_leaves_after_a_line_ends_the_command_quietly(command: str, work: Path) -> None:
    arguments = (command, "tiny-1.0.0.edgeloop", "pictures", "--race-s", "0", "--json")
    with _start(arguments, work, stdout=subprocess.PIPE) as done:
        assert done.stdout is not None
        assert done.stderr is not None
        assert done.stdout.readline().startswith(b"{")
        done.stdout.close()
        assert (done.stderr.read(), done.wait(timeout=60)) == (b"", READER_LEFT)


def test_error_that_nobody_reads_keeps_its_exit_code(tmp_path: Path, nobody: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgeloop", "inspect", "absent.edgeloop"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=nobody,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == (b"", 3)


@pytest.mark.parametrize("flags", [(), ("-u",)], ids=["buffered", "unbuffered"])
def test_log_that_nobody_reads_ends_no_work(flags: tuple[str, ...], nobody: int) -> None:
    code = (
        "from edgeloop.cli.ending import heed_closed_pipes, run_to_end\n"
        "from edgeloop.cli.logs import set_up_logging\n"
        "heed_closed_pipes(); set_up_logging()\n"
        "import structlog\n"
        "def work():\n"
        "    for turn in range(3):\n"
        "        structlog.get_logger().warning('turn', number=turn)\n"
        "        print('turn', turn)\n"
        "run_to_end(work)\n"
    )
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], stdout=subprocess.PIPE, stderr=nobody, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == (b"turn 0\nturn 1\nturn 2\n", 0)


def test_broken_connection_is_no_reader_that_left() -> None:
    code = (
        "import socket\n"
        "from edgeloop.cli.ending import heed_closed_pipes, run_to_end\n"
        "heed_closed_pipes()\n"
        "def work():\n"
        "    ours, theirs = socket.socketpair()\n"
        "    theirs.close()\n"
        "    ours.send(b'x')\n"
        "run_to_end(work)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"BrokenPipeError" in done.stderr


def test_process_ends_without_being_taken_apart_once_all_had_their_turn() -> None:
    code = (
        "import atexit, os, sys, threading, time\n"
        "from edgeloop.cli.ending import heed_closed_pipes, run_to_end\n"
        "class Native:\n"
        "    def __del__(self): os.abort()\n"
        "def late():\n"
        "    time.sleep(0.2)\n"
        "    print('thread')\n"
        "def work():\n"
        "    sys.modules['kept'] = Native()\n"
        "    atexit.register(print, 'asked for')\n"
        "    threading.Thread(target=late).start()\n"
        "heed_closed_pipes()\n"
        "run_to_end(work)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (b"thread\nasked for\n", b"", 0)


@pytest.mark.parametrize(
    ("ending", "code"),
    [("sys.exit()", 0), ("sys.exit(3)", 3), ("sys.exit('why')", 1), ("1 / 0", 1), ("raise KeyboardInterrupt", 130)],
)
def test_exit_code_is_the_one_that_python_would_give(ending: str, code: int) -> None:
    program = f"import sys\nfrom edgeloop.cli.ending import run_to_end\ndef work():\n    {ending}\nrun_to_end(work)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert done.returncode == code
    assert bool(done.stderr) == (ending in ("sys.exit('why')", "1 / 0"))


def _start(arguments: tuple[str, ...], folder: Path, *, stdout: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "edgeloop", *arguments], cwd=folder, stdout=stdout, stderr=subprocess.PIPE
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
@pytest.mark.parametrize("arguments", [(*PREDICT, "--json"), PREDICT, ("inspect", "tiny-1.0.0.edgeloop")], ids=" ".join)
def test_full_disk_under_standard_output_is_one_line_that_says_so(arguments: tuple[str, ...], work: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        _, said = _start(arguments, work, stdout=full.fileno()).communicate(timeout=60)
    assert said.startswith(b"unavailable: standard output takes no more: No space left on device.")
    assert said.count(b"\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_log_on_a_full_disk_ends_no_work(work: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgeloop", *PREDICT, "--json"],
            cwd=work,
            stdout=subprocess.PIPE,
            stderr=full,
            env=os.environ | {"XDG_CACHE_HOME": "/proc/none"},  # which is logged
            timeout=60,
            check=False,
        )
    assert (done.stdout.count(b"\n"), done.returncode) == (600, 0)
