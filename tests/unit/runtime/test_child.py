"""Ends of real processes."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from edgeloop.runtime.child import OWN_GROUP, end_of, kill_group, last_line, signal_name

_WAITS = """
import signal, sys
from edgeloop.runtime.child import end_with
end_with(int(sys.argv[1]), within_s=float(sys.argv[2]))
signal.pause()
"""


def _ended(parent: int, within_s: float) -> int:
    command = [sys.executable, "-c", _WAITS, str(parent), str(within_s)]
    return subprocess.run(command, timeout=60, check=False).returncode


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such timer here")
def test_process_is_ended_after_its_time() -> None:
    assert end_of(_ended(os.getpid(), 0.2)) == "was ended by SIGALRM"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of a parent that ended")
def test_process_whose_parent_has_ended_already_ends_at_once() -> None:
    assert end_of(_ended(2**22 + 1, 60.0)) == "ended with exit code 1"


_WORKS = """
import signal, sys, time
from edgeloop.runtime.child import Bounded
bounded = Bounded()
for _ in range(3):
    sys.stdin.buffer.read(1)
    bounded.within_s = float(sys.argv[1])
    with bounded:
        if sys.argv[2] == "hangs":
            print("at work", flush=True)
            signal.pause()
    print("done", flush=True)
"""


def _at_work(within_s: float, how: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-u", "-c", _WORKS, str(within_s), how]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such timer here")
def test_work_that_takes_too_long_ends_the_process() -> None:
    with _at_work(0.2, "hangs") as process:
        assert process.stdin is not None
        process.stdin.write(b"1")
        assert end_of(process.wait(60)) == "was ended by SIGALRM"


def test_work_that_is_done_in_time_leaves_the_process_to_the_next() -> None:
    with _at_work(3600.0, "is done") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(3):
            process.stdin.write(b"1")
            assert process.stdout.readline() == b"done\n"
        assert process.wait(60) == 0


_STARTS_ANOTHER = """
import subprocess, sys
other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(other.pid, flush=True)
other.wait()
"""


@pytest.mark.skipif(os.name != "posix", reason="there are no groups of processes here")
def test_group_is_ended_with_what_it_started() -> None:
    command = [sys.executable, "-c", _STARTS_ANOTHER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, **OWN_GROUP) as process:
        assert process.stdout is not None
        other = psutil.Process(int(process.stdout.readline()))
        kill_group(process.pid)
        assert end_of(process.wait(60)) == "was ended by SIGKILL"
        other.wait(60)  # raises if it still runs


_PRINTS = """
import os
from edgeloop.runtime.child import take_stdout
answer = take_stdout()
print("what a library says", flush=True)
os.write(answer, b"the answer")
"""


def test_what_libraries_print_does_not_spoil_the_answer() -> None:
    done = subprocess.run([sys.executable, "-c", _PRINTS], capture_output=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == (b"the answer", b"what a library says\n")


def test_signal_that_nobody_named_has_its_number() -> None:
    assert (signal_name(11), signal_name(999)) == ("SIGSEGV", "signal 999")


def test_last_line_is_the_last_with_something_in_it() -> None:
    assert last_line(b"first\n  second \n\n \n") == "second"


def test_bytes_that_are_no_text_are_shown_all_the_same() -> None:
    assert last_line(b"caf\xe9\n") == "caf\ufffd"


def test_process_that_was_silent_said_nothing() -> None:
    assert last_line(b"\n") == "it said nothing"
