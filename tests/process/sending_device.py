"""A device that appends and sends for as long as it lives, made again and again by forking a process that has
imported everything: starting Python two dozen times would take longer than all else in test_sender_killed.

    python sending_device.py FOLDER TOLD [tell-before-commit]

Reads orders from standard input: `go` forks a device and prints its number, `begins`, and `ended` once it is gone;
`drain` forks one that appends nothing and ends when its outbox is empty. TOLD grows by a line for each reading once the
outbox said that it is durable; tell-before-commit breaks that promise, for a control.
"""

import asyncio
import os
import sys
import threading
import time
from pathlib import Path

from edgeloop.contracts.messages import Reading
from edgeloop.contracts.prediction import Prediction
from edgeloop.transport.membership import open_client, open_identity, read_membership
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.sender import Sender
from edgeloop.transport.uplink import Uplink

_LATE_S = 0.02


def main() -> None:
    """Obey until standard input ends."""
    folder, told, is_honest = Path(sys.argv[1]), Path(sys.argv[2]), len(sys.argv) == 3
    for turn, order in enumerate(sys.stdin):
        pid = os.fork()
        if pid == 0:
            handle = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            asyncio.run(_work(folder, handle, turn, is_draining=order.strip() == "drain", is_honest=is_honest))
            os._exit(0)
        print(pid, flush=True)  # noqa: T201 - the protocol
        os.waitpid(pid, 0)
        print("ended", flush=True)  # noqa: T201 - the protocol


async def _work(folder: Path, told: int, turn: int, *, is_draining: bool, is_honest: bool) -> None:
    member = read_membership(folder)
    outbox = Outbox(folder / "outbox.db", member.device_id)
    async with open_client(member.hub_url, ca=member.ca) as client:
        uplink = Uplink(client, open_identity(folder, member.device_id))
        sending = asyncio.create_task(Sender(outbox, uplink, every_s=0.001, longest_wait_s=0.2).run())
        if not is_draining:
            os.write(1, b"begins\n")
            append = _append if is_honest else _tell_before
            threading.Thread(target=append, args=(outbox, told, turn), daemon=True).start()
            await sending
        while outbox.stats().pending_rows:
            await asyncio.sleep(0.01)


def _append(outbox: Outbox, told: int, turn: int) -> None:
    for number in range(1_000_000):
        source = f"{turn}-{number}"
        outbox.append([_reading(source)], at_ms=number)
        os.write(told, f"{source}\n".encode())


def _tell_before(outbox: Outbox, told: int, turn: int) -> None:
    for number in range(1_000_000):
        source = f"{turn}-{number}"
        os.write(told, f"{source}\n".encode())
        time.sleep(_LATE_S)
        outbox.append([_reading(source)], at_ms=number)


def _reading(source: str) -> Reading:
    made = Prediction(
        label="0", score=0.9, margin=0.8, top=(), latency_ms=1.0, bundle="tiny@1.0.0", engine="litert",
        precision="int8",
    )  # fmt: skip
    return Reading(source=source, prediction=made)


if __name__ == "__main__":
    main()
