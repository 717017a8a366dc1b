"""Files that a node has carried once: a hundred devices cost one download.

A path that never changes is fetched once. A path that changes (a timestamp) is asked for each time, and the last
copy stands in while the hub above is away; those who ask while an answer is on its way share the next one. The cache
is an untrusted mirror: devices check everything themselves; content-addressed files are checked here too, so that a
damaged one is not passed on. What the node itself answers from it reads with `get_exactly`, whatever lies here.
"""

import asyncio
import re
from collections import defaultdict
from itertools import count
from pathlib import Path

from edgeloop.bundle.archive import digest
from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.errors import Corrupt, NotFound, Unavailable
from edgeloop.contracts.manifest import FileEntry
from edgeloop.hub.port import Served
from edgeloop.transport.uplink import Uplink

_MAX_FILE_BYTES = 4 * 1024 * 1024 * 1024
_PATH = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}(?:/[a-z0-9][a-z0-9._-]{0,199}){1,6}")
_BY_HASH = re.compile(r"targets/files/([0-9a-f]{64})")
_NEXT_ROOT = re.compile(r".*/[0-9]+\.root\.json")
_NEVER_CHANGES = re.compile(r"targets/.+|.*/[0-9]+\.[a-z]+\.json")


class Cache:
    """A folder of fetched files by path."""

    def __init__(self, folder: Path, uplink: Uplink) -> None:
        self._folder = folder
        self._uplink = uplink
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._turns = count()
        self._asked: dict[str, tuple[int, str | None]] = {}

    async def get(self, path: str) -> Served:
        """The file at `path`, from here or from above. Raises NotFound, Unavailable or Corrupt."""
        kept = self._place(path)
        immutable = _NEVER_CHANGES.fullmatch(path) is not None
        arrived = next(self._turns)
        async with self._locks[path]:
            if not (immutable and kept.is_file()):
                await self._refresh_since(arrived, path, kept)
            if not immutable:  # read whole now: the next refresh may replace it while this answer is sent
                return _in_memory(await asyncio.to_thread(kept.read_bytes))
        return _on_disk(kept)

    async def get_exactly(self, path: str, entry: FileEntry) -> bytes:
        """The file whose content this is, checked now; a copy that is damaged here is fetched anew.

        Raises NotFound or Unavailable, Corrupt if another content comes from above.
        """
        kept = self._place(path)
        async with self._locks[path]:
            data = await asyncio.to_thread(_read_if, kept, entry)
            if data is not None:
                return data
            data = await self._uplink.fetch(path, max_bytes=entry.size_bytes)
            if not await asyncio.to_thread(_is, entry, data):
                raise Corrupt(f"{path} came from above with another hash than is signed; it was not kept")
            await asyncio.to_thread(write_durable, kept, data)
            return data

    def _place(self, path: str) -> Path:
        if not _PATH.fullmatch(path):
            raise NotFound(f"there is no file {path!r} here")
        return self._folder / path

    async def _refresh_since(self, arrived: int, path: str, kept: Path) -> None:
        """Ask above, unless somebody did so after this request came: what they were told is as new as it would be."""
        begun, missing = self._asked.get(path, (-1, None))
        if begun < arrived:
            begun, missing = next(self._turns), None
            try:
                await self._refresh(path, kept)
            except NotFound as error:
                missing = str(error)
            self._asked[path] = (begun, missing)
        if missing is not None:
            raise NotFound(missing)

    async def _refresh(self, path: str, kept: Path) -> None:
        try:
            data = await self._uplink.fetch(path, max_bytes=_MAX_FILE_BYTES)
        except Unavailable as error:
            if kept.is_file():
                return
            if _NEXT_ROOT.fullmatch(path):
                # Asked for one after another until there is none: none is known here.
                raise NotFound(f"{path} is not known here, and the hub above is away") from error
            raise
        by_hash = _BY_HASH.fullmatch(path)
        if by_hash is not None and digest(data) != by_hash[1]:
            raise Corrupt(f"{path} came from above with another hash; it was not kept")
        await asyncio.to_thread(write_durable, kept, data)


def _read_if(kept: Path, entry: FileEntry) -> bytes | None:
    """What is kept, if it is this content."""
    if not kept.is_file() or kept.stat().st_size != entry.size_bytes:
        return None
    data = kept.read_bytes()
    return data if _is(entry, data) else None


def _is(entry: FileEntry, data: bytes) -> bool:
    return len(data) == entry.size_bytes and digest(data) == entry.sha256


def _in_memory(data: bytes) -> Served:
    async def read(start: int, stop: int) -> bytes:
        return data[start:stop]

    return Served(len(data), False, read)


def _on_disk(kept: Path) -> Served:
    def read_now(start: int, stop: int) -> bytes:
        with kept.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    async def read(start: int, stop: int) -> bytes:
        return await asyncio.to_thread(read_now, start, stop)

    return Served(kept.stat().st_size, True, read)
