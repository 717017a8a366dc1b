"""Ends of real processes."""

import os
import signal
import subprocess
import sys

import pytest

from edgeloop.runtime.child import end_of, last_line, signal_name

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


def test_signal_that_nobody_named_has_its_number() -> None:
    assert (signal_name(11), signal_name(999)) == ("SIGSEGV", "signal 999")


def test_last_line_is_the_last_with_something_in_it() -> None:
    assert last_line(b"first\n  second \n\n \n") == "second"


def test_bytes_that_are_no_text_are_shown_all_the_same() -> None:
    assert last_line(b"caf\xe9\n") == "caf\ufffd"


def test_process_that_was_silent_said_nothing() -> None:
    assert last_line(b"\n") == "it said nothing"
