"""Makes `cameras` importable from the tests of this folder, and gives them a stop that cannot be forgotten."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    """Set by itself after a while: a source that never yields what a test waits for must not hang it."""
    event = threading.Event()
    timer = threading.Timer(20.0, event.set)
    timer.start()
    yield event
    timer.cancel()
    event.set()


@pytest.fixture
def child() -> "Iterator[Callable[..., subprocess.Popen[bytes]]]":
    """Starts Python code in a process of its own, with pipes; none outlives the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str, *arguments: str) -> "subprocess.Popen[bytes]":
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([sys.executable, "-c", code, *arguments], stdin=pipe, stdout=pipe, stderr=pipe))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
