"""What a device tells the bench of its own doing, as it does it: lines in a named pipe.

    trust, download, unpack, switch, outbox    a write of this kind begins
    kept N                              a row of the outbox was acknowledged to the inference loop
    confirmed, or another state         how far the update is, once that is on the disk

Put on in the device's process, around the product's own functions. Neighbours: `roles` puts them on, `cuts` reads.
"""

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

_ENDS = frozenset({"confirmed", "refused", "rolled_back"})
_PIECE_BYTES = 64 * 1024


def put_on(pipe: Path) -> None:
    """From now on this process tells."""
    from tuf.ngclient import Updater

    from edgeloop.bundle.shelf import Shelf
    from edgeloop.device.state import Versions
    from edgeloop.transport.outbox import Outbox

    handle = os.open(pipe, os.O_WRONLY)

    def tell(line: str) -> None:
        os.write(handle, f"{line}\n".encode())

    _around(Updater, "_persist_file", before=lambda: tell("trust"))
    _around(Shelf, "append_part", before=lambda: tell("download"))
    _around(Shelf, "finish_part", before=lambda: tell("unpack"))
    _around(Shelf, "put_manifest", before=lambda: tell("unpack"))
    _around(Versions, "switch", before=lambda: tell("switch"))
    for name in ("note", "confirm", "refuse", "go_back"):
        _around(Versions, name, after=lambda _, __, update: tell(update.state))
    _around(
        Outbox, "append", before=lambda: tell("outbox"), after=lambda kept, *_: tell(f"kept {max(kept, default=0)}")
    )


def _nothing(*_: Any) -> None:
    """For who wants none."""


def _around(
    kind: type, name: str, *, before: Callable[[], None] = _nothing, after: Callable[..., None] = _nothing
) -> None:
    """before: called with nothing. after: with the answer, and what was given."""
    honest = getattr(kind, name)

    def told(*arguments: Any, **named: Any) -> Any:
        before()
        answer = honest(*arguments, **named)
        after(answer, *arguments)
        return answer

    setattr(kind, name, told)


class Marks:
    """The bench's end of the pipe. kept: the last row that was acknowledged. is_over: an update has ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = 0
        self.is_over = False
        os.mkfifo(path)
        self._handle = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)
        self.path.unlink()

    def wait(self, mark: str, *, count: int = 1, timeout_s: float = 30.0) -> bool:
        """Until the mark came so many times; False if it did not in time, or the update ended before."""
        until_s = time.monotonic() + timeout_s
        while (left_s := until_s - time.monotonic()) > 0:
            if not select.select([self._handle], [], [], left_s)[0]:
                return False
            for told in self._read():
                count -= told == mark
                if count <= 0:
                    return True
            if self.is_over and mark != "outbox":
                return False
        return False

    def drain(self) -> None:
        """Take in what was told and not read; the teller is gone."""
        while select.select([self._handle], [], [], 0)[0]:
            self._read()

    def _read(self) -> list[str]:
        *lines, self._rest = (self._rest + os.read(self._handle, _PIECE_BYTES)).split(b"\n")
        told = [line.decode() for line in lines]
        self.is_over = self.is_over or not _ENDS.isdisjoint(told)
        self.kept = max([self.kept, *(int(line.split()[1]) for line in told if line.startswith("kept "))])
        return told
