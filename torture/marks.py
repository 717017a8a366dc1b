"""What a device tells the bench of its own doing, as it does it: lines in a named pipe.

    trust, download, unpack, accept, switch, go_back, outbox     a write of this kind begins
    begun REPOSITORY ROLE               the file of signed metadata that it is, where it is one
    believed REPOSITORY VERSION...      signed metadata was taken for true: versions of root, timestamp, snapshot,
                                        targets, as they lie on the disk
    kept N                              a row of the outbox was acknowledged to the inference loop
    at GENERATION STATE                 how far the update is, once that is on the disk
    confirmed, or another state         the same, to be waited for

Put on in the device's process, around the product's own functions. Neighbours: `roles` puts them on, `cuts` reads.
"""

import json
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

_ENDS = frozenset({"confirmed", "refused", "rolled_back"})
_PIECE_BYTES = 64 * 1024
ROLES = ("root", "timestamp", "snapshot", "targets")
"""Of signed metadata, in the order in which their versions are told."""


def put_on(pipe: Path) -> None:
    """From now on this process tells."""
    from tuf.ngclient import Updater

    from edgeloop.bundle.shelf import Shelf
    from edgeloop.device.accept import Acceptance
    from edgeloop.device.state import Versions
    from edgeloop.transport.floor import Floor
    from edgeloop.transport.outbox import Outbox

    handle = os.open(pipe, os.O_WRONLY)

    def tell(line: str) -> None:
        os.write(handle, f"{line}\n".encode())

    def stands(_: Any, *given: Any) -> None:
        update = given[-1]
        tell(f"at {update.assignment.generation} {update.state}")
        tell(update.state)

    def begins(_: Any, path: str, __: bytes) -> None:
        *_above, repository, name = [part for part in Path(path).parts if part != "root_history"]
        tell(f"begun {repository} {name.removesuffix('.json').rpartition('.')[2]}")
        tell("trust")

    def believed(_: Any, floor: Any, repository: str, __: Any) -> None:
        tell(f"believed {repository} {' '.join(map(str, versions_of(floor._path.parent / repository)))}")

    _around(Updater, "_persist_file", before=begins)
    _around(Floor, "hold", after=believed)
    _around(Shelf, "append_part", before=lambda *_: tell("download"))
    _around(Shelf, "finish_part", before=lambda *_: tell("unpack"))
    _around(Shelf, "put_manifest", before=lambda *_: tell("unpack"))
    _around(Acceptance, "judge", before=lambda *_: tell("accept"))
    _around(Versions, "switch", before=lambda *_: tell("switch"), after=stands)
    _around(Versions, "go_back", before=lambda *_: tell("go_back"), after=stands)
    for name in ("note", "confirm", "refuse"):
        _around(Versions, name, after=stands)
    _around(
        Outbox,
        "append",
        before=lambda *_: tell("outbox"),
        after=lambda kept, *_: tell(f"kept {max(kept, default=0)}"),
    )


def versions_of(repository: Path) -> list[int]:
    """The versions of a repository's files on the disk, root first."""
    return [int(json.loads((repository / f"{role}.json").read_bytes())["signed"]["version"]) for role in ROLES]


def _nothing(*_: Any) -> None:
    """For who wants none."""


def _around(
    kind: type, name: str, *, before: Callable[..., None] = _nothing, after: Callable[..., None] = _nothing
) -> None:
    """before: called with what is given, but for what goes by name. after: with the answer, and the same."""
    honest = getattr(kind, name)

    def told(*arguments: Any, **named: Any) -> Any:
        before(*arguments)
        answer = honest(*arguments, **named)
        after(answer, *arguments)
        return answer

    setattr(kind, name, told)


class Marks:
    """The bench's end of the pipe. kept: the last row that was acknowledged. is_over: an update has ended. lines: all
    that was told.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = 0
        self.is_over = False
        self.lines: list[str] = []
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
        self.lines += told
        self.is_over = self.is_over or not _ENDS.isdisjoint(told)
        self.kept = max([self.kept, *(int(line.split()[1]) for line in told if line.startswith("kept "))])
        return told
