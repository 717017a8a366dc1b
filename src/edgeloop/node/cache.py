"""Files that a node has carried once: a hundred devices cost one download.

A path that never changes is fetched once. A path that changes (a timestamp) is asked for each time, and the last
copy stands in while the hub above is away; those who ask while an answer is on its way share the next one. Files of
bundles come as a device's own downloads do: by ranges, resumed after each cut and over restarts, given up when they
drip, not begun where there is no room, within the day's budget. A download goes on whoever asked has left meanwhile;
who is told to ask again finds it further on. The cache is an untrusted mirror: devices check everything themselves;
content-addressed files are checked here too, so that a damaged one is not passed on. What the node itself answers from
it reads with `get_exactly`, whatever lies here. Patches pass through as files do, and give way in time: `patches`.
Each device has a share of what is asked for above on its behalf: the hub above gives a node one share for all.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from edgeloop.bundle.archive import digest
from edgeloop.bundle.durable import storage_error, translated, write_durable
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Corrupt, NotFound, Unavailable
from edgeloop.contracts.manifest import FileEntry
from edgeloop.contracts.names import parse_offer_path
from edgeloop.hub.limits import Buckets, TooMany
from edgeloop.hub.port import Served
from edgeloop.node.patches import PassedPatches
from edgeloop.transport.download import Download
from edgeloop.transport.metering import Meter
from edgeloop.transport.uplink import Uplink

_MAX_FILE_BYTES = 4 * 1024 * 1024 * 1024
_MAX_OTHER_BYTES = 16 * 1024 * 1024
"""Of manifests and signed metadata; what devices take of either is less."""
_PATH = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}(?:/[a-z0-9][a-z0-9._-]{0,199}){1,6}")
_FILES = "targets/files/"
_BY_HASH = re.compile(r"targets/files/([0-9a-f]{64})")
_NEXT_ROOT = re.compile(r".*/[0-9]+\.root\.json")
_NEVER_CHANGES = re.compile(r"targets/.+|.*/[0-9]+\.[a-z]+\.json")
_EMPTY = digest(b"")
_LONGEST_ANSWER_S = 10.0
"""Devices wait for 15 s: they are told before that how far a file is."""
_ASKED_HZ = 5.0
_ASKED_BURST = 200
"""Of one device: an update whose every file is new to the node takes some 20, and the hub above gives 100 a second."""


@dataclass
class _Asked:
    """A path that somebody asks for just now. begun: the turn in which it was asked for above last; missing: what was
    said if it was not there.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    askers: int = 0
    begun: int = -1
    missing: str | None = None


class Cache:
    """A folder of fetched files by path. Belongs to one event loop.

    meter: when a bundle's file may be fetched. longest_answer_s: after it, who asks for one that is still on its way is
    told so. clock_s: seconds that pass.
    """

    def __init__(
        self,
        folder: Path,
        uplink: Uplink,
        meter: Meter,
        *,
        longest_answer_s: float = _LONGEST_ANSWER_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._shelf = Shelf(folder / "targets")
        self._uplink = uplink
        self._meter = meter
        self._longest_answer_s = longest_answer_s
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._turns = count()
        self._asked: dict[str, _Asked] = {}
        self._shares = Buckets(hz=_ASKED_HZ, burst=_ASKED_BURST, clock=clock_s)
        self._patches = PassedPatches(folder)

    @property
    def asked_now(self) -> int:
        """How many paths somebody asks for just now: no other is remembered."""
        return len(self._asked)

    async def get(self, path: str, *, asker: str | None = None) -> Served:
        """The file at `path`, from here or from above. asker: of whose share it is to be asked for above, if it is.

        Raises NotFound, Unavailable (TooMany where the share is used up, or the node's own with the hub above) or
        Corrupt.
        """
        kept = self._place(path)
        by_hash = _BY_HASH.fullmatch(path)
        if by_hash is not None:
            if not (by_hash[1] in self._coming or self._shelf.has(by_hash[1])):
                self._take_share(asker)
            await self._have_soon(by_hash[1])
            return _on_disk(kept)
        immutable = _NEVER_CHANGES.fullmatch(path) is not None
        arrived = next(self._turns)
        async with self._asking(path) as asked:
            if not (immutable and kept.is_file()):
                if asked.begun < arrived:
                    self._take_share(asker)
                    await self._refresh_in(asked, path, kept)
                if asked.missing is not None:
                    raise NotFound(asked.missing)
            if not immutable:  # read whole now: the next refresh may replace it while this answer is sent
                data = await asyncio.to_thread(_read, kept)
                if (patch := parse_offer_path(path)) is not None:
                    await self._patches.note(patch)
                return _in_memory(data)
        return _on_disk(kept)

    async def get_exactly(self, path: str, entry: FileEntry) -> bytes:
        """The file whose content this is, checked now; a copy that is damaged here is fetched anew.

        Raises NotFound or Unavailable, Corrupt if another content comes from above.
        """
        kept = self._place(path)
        async with self._asking(path):
            data = await asyncio.to_thread(_read_if, kept, entry)
            if data is not None:
                return data
            if path == f"{_FILES}{entry.sha256}":
                with translated(kept, doing="write"):
                    kept.unlink(missing_ok=True)
                await self._have(entry.sha256)
                data = await asyncio.to_thread(_read, kept)
            else:
                data = await self._uplink.fetch(path, max_bytes=entry.size_bytes)
            if not await asyncio.to_thread(_is, entry, data):
                raise Corrupt(f"{path} came from above with another hash than is signed; it was not kept")
            if not kept.is_file():
                await asyncio.to_thread(write_durable, kept, data)
            return data

    async def close(self) -> None:
        """End the downloads that are under way; what came of them stays, and is taken up at the next start."""
        for task in (under_way := list(self._coming.values())):
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)

    def _place(self, path: str) -> Path:
        # Under a hash lies what has that hash: not what a download has brought of it so far.
        if not _PATH.fullmatch(path) or (path.startswith(_FILES) and not _BY_HASH.fullmatch(path)):
            raise NotFound(f"there is no file {path!r} here")
        return self._folder / path

    async def _have_soon(self, sha256: str) -> None:
        """Have a bundle's file, or say within moments how far it is."""
        try:
            async with asyncio.timeout(self._longest_answer_s):
                await self._have(sha256)
        except TimeoutError as error:
            raise Unavailable(self._progress(sha256)) from error

    async def _have(self, sha256: str) -> None:
        """Have a bundle's file. All who want it wait for the same download, and are told the same of it."""
        if self._shelf.has(sha256):
            return
        task = self._coming.get(sha256)
        if task is None:
            task = self._coming[sha256] = asyncio.create_task(self._bring(sha256))
            task.add_done_callback(lambda ended: self._came(sha256, ended))
        await asyncio.wait([task])
        if task.cancelled():
            raise Unavailable("this node is ending; ask again")
        task.result()

    async def _bring(self, sha256: str) -> None:
        path = f"{_FILES}{sha256}"
        if sha256 == _EMPTY:  # of which no byte can be asked for
            await asyncio.to_thread(self._shelf.put, sha256, b"")
            return
        size_bytes = await self._uplink.size_bytes(path)
        if size_bytes > _MAX_FILE_BYTES:
            raise Corrupt(
                f"{path} would be {size_bytes:,} bytes; no file of a bundle has more than {_MAX_FILE_BYTES:,}"
            )
        left_bytes = size_bytes - min(size_bytes, self._shelf.part_size_bytes(sha256))
        self._shelf.require_room(left_bytes)
        await self._meter.leave(path, left_bytes)
        came_bytes: list[int] = []
        download = Download(
            self._uplink, path, self._shelf, sha256=sha256, size_bytes=size_bytes, on_bytes=came_bytes.append
        )
        try:
            await download.run()
        finally:
            await self._meter.spend(path.removeprefix("targets/"), sum(came_bytes))

    def _came(self, sha256: str, task: "asyncio.Task[None]") -> None:
        self._coming.pop(sha256, None)
        if not task.cancelled():
            task.exception()  # told to whoever waited; if nobody does any more, to nobody

    def _progress(self, sha256: str) -> str:
        have_bytes = self._shelf.part_size_bytes(sha256)
        why = "it waits for the day's bytes" if self._meter.is_waiting else "it goes on"
        return f"file {sha256[:12]} is on its way to this node, {have_bytes:,} bytes of it are here; {why}, ask again"

    @asynccontextmanager
    async def _asking(self, path: str) -> AsyncIterator[_Asked]:
        """One after another. What one is told is for those who came before it asked, and is forgotten with the last."""
        asked = self._asked.setdefault(path, _Asked())
        asked.askers += 1
        try:
            async with asked.lock:
                yield asked
        finally:
            asked.askers -= 1
            if not asked.askers:
                del self._asked[path]

    def _take_share(self, asker: str | None) -> None:
        wait_s = 0.0 if asker is None else self._shares.take(asker)
        if wait_s > 0:
            raise TooMany(
                f"this node asks above for {_ASKED_HZ:g} files a second on behalf of {asker!r}, and it asks for more",
                wait_s,
            )

    async def _refresh_in(self, asked: _Asked, path: str, kept: Path) -> None:
        """Ask above: whoever came before that is told the same, which is as new as their own answer would be."""
        begun, missing = next(self._turns), None
        try:
            await self._refresh(path, kept)
        except NotFound as error:
            missing = str(error)
        asked.begun, asked.missing = begun, missing

    async def _refresh(self, path: str, kept: Path) -> None:
        try:
            data = await self._uplink.fetch(path, max_bytes=_MAX_OTHER_BYTES)
        except Unavailable as error:
            if error.retry_after_s > 0:  # the hub above is there: what it has now is a matter of waiting
                raise TooMany(f"the hub above this node: {error}", error.retry_after_s) from error
            if kept.is_file():
                return
            if _NEXT_ROOT.fullmatch(path):
                # Asked for one after another until there is none: none is known here.
                raise NotFound(f"{path} is not known here, and the hub above is away") from error
            raise
        await asyncio.to_thread(write_durable, kept, data)


@contextmanager
def _reading(kept: Path) -> Iterator[None]:
    """Whatever the disk does is no fault of who asked: they may ask again."""
    try:
        yield
    except FileNotFoundError as error:
        raise Unavailable(f"{kept.name} was damaged on this node's disk and is fetched anew; ask again") from error
    except OSError as error:
        raise Unavailable(str(storage_error(error, kept, doing="read"))) from error


def _read(kept: Path) -> bytes:
    with _reading(kept):
        return kept.read_bytes()


def _read_if(kept: Path, entry: FileEntry) -> bytes | None:
    """What is kept, if it is this content."""
    with translated(kept, doing="read"):
        if not kept.is_file() or kept.stat().st_size != entry.size_bytes:
            return None
    data = _read(kept)
    return data if _is(entry, data) else None


def _is(entry: FileEntry, data: bytes) -> bool:
    return len(data) == entry.size_bytes and digest(data) == entry.sha256


def _in_memory(data: bytes) -> Served:
    async def read(start: int, stop: int) -> bytes:
        return data[start:stop]

    return Served(len(data), False, read)


def _on_disk(kept: Path) -> Served:
    def read_now(start: int, stop: int) -> bytes:
        with _reading(kept), kept.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    async def read(start: int, stop: int) -> bytes:
        return await asyncio.to_thread(read_now, start, stop)

    with _reading(kept):
        return Served(kept.stat().st_size, True, read)
