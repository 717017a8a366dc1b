"""The device's agent in a process that holds nothing else: what `edgeloop device run` becomes.

Reading options takes Typer, pydantic and rich, 13 MB that an agent has no use for in the months that it runs. So
once they are read the process is replaced by one that runs this module: the same process for whoever started it, with
its number, terminal, environment and signals.
"""

import os
import sys

import msgspec

from edgeloop.cli.ending import heed_closed_pipes, run_to_end
from edgeloop.cli.logs import hidden, set_up_logging
from edgeloop.cli.say import ready
from edgeloop.contracts.errors import InvalidInput
from edgeloop.device.config import DeviceConfig
from edgeloop.runtime.child import command_of

_FOR_SIGNERS = ("azure", "boto3", "google.cloud", "hvac", "keylet", "pkcs11")
"""What securesystemslib, which python-tuf brings, loads where it finds it, to sign with keys of clouds and of hardware:
an agent checks signatures. boto3 alone is 9 MB and 0.1 s of the first update."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent is told, as JSON through a pipe: a camera's address may hold a password, and arguments are for
    everybody to see."""

    config: DeviceConfig
    as_json: bool


def become_agent(order: Order) -> None:
    """Replace this process by the agent; on Windows, which knows no such thing, run it here.

    Does not return where it replaces. Nothing may be open that has to be closed. Raises InvalidInput if the order is
    longer than a pipe holds, some 64 KB.
    """
    if os.name != "posix":
        _run(order)
        return
    sys.stdout.flush()
    sys.stderr.flush()
    reading = _held(to_text(order).encode())
    os.execv(sys.executable, [*command_of(__name__), str(reading)])  # noqa: S606 - ourselves


def _held(text: bytes) -> int:
    """The end of a pipe to read it from, in the process that this one becomes."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    written = os.write(writing, text)
    os.close(writing)
    if written < len(text):
        raise InvalidInput(
            f"these options are {len(text):,} bytes in all, of which a pipe takes {written:,}; shorten them"
        )
    os.set_inheritable(reading, True)
    return reading


def to_text(order: Order) -> str:
    """As JSON."""
    return msgspec.json.encode(order, enc_hook=str).decode()


def from_text(text: str) -> Order:
    """Out of it."""
    return msgspec.json.decode(text, type=Order, dec_hook=lambda kind, value: kind(value))


def main() -> None:
    """Be the agent until SIGTERM or SIGINT; the process ends with its exit code."""
    heed_closed_pipes()
    set_up_logging()
    with hidden("click"):
        # Where httpx finds click it loads its command line, with rich and pygments: 5 MB.
        import httpx  # noqa: F401
    for package in _FOR_SIGNERS:
        sys.modules[package] = None  # type: ignore[assignment]  # for good: python-tuf comes with the first update
    with os.fdopen(int(sys.argv[1]), encoding="utf-8") as pipe:
        order = from_text(pipe.read())
    run_to_end(lambda: _run(order))


def _run(order: Order) -> None:
    from edgeloop.device.app import run_device  # after the logs are set up

    run_device(order.config, on_ready=lambda member: ready("device", as_json=order.as_json, id=member.device_id))


if __name__ == "__main__":
    main()
