"""Decoding a type in several threads that nobody decoded before: msgspec alone ends the process by SIGSEGV there."""

import signal
import subprocess
import sys

import msgspec

from edgeloop.contracts.codec import ready, ready_all
from edgeloop.contracts.messages import SyncRequest

_PROGRAM = """
import resource, sys, threading
import msgspec
from edgeloop.contracts.codec import from_json

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
sys.setswitchinterval(1e-5)

def inner(name):
    return msgspec.defstruct(name, [(f"g{i}", "int | None", None) for i in range(5)], module="__main__")

def outer(number):
    return msgspec.defstruct(f"S{number}", [(f"f{i}", inner(f"T{number}_{i}") | None, None) for i in range(20)])

kinds = [outer(number) for number in range(60)]
barrier = threading.Barrier(4)

def work():
    barrier.wait()
    for kind in kinds:
        DECODE

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def _ended(decode: str) -> int:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM.replace("DECODE", decode)], check=False, timeout=60
    ).returncode


def test_threads_may_decode_a_type_for_the_first_time_at_once() -> None:
    assert _ended("""assert from_json(b'{"f1": {"g1": 1}}', kind, what="it").f1.g1 == 1""") == 0


def test_control_msgspec_alone_still_ends_the_process() -> None:
    """When this fails, `ready` can go: what it guards against is mended."""
    assert -signal.SIGSEGV in {_ended("""msgspec.json.decode(b'{"f1": {"g1": 1}}', type=kind)""") for _ in range(5)}


def test_ready_gives_the_type_back_also_of_what_is_no_class() -> None:
    assert (ready(SyncRequest), ready(dict[str, SyncRequest])) == (SyncRequest, dict[str, SyncRequest])


def test_all_types_that_are_loaded_can_be_decoded() -> None:
    ready_all()
    assert msgspec.json.decode(b'{"reports": []}', type=SyncRequest) == SyncRequest(reports=())
