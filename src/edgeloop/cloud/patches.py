"""Patches from files that devices have to files that they want, made when the first one asks.

Rules kept here: a patch is kept only where it is clearly smaller than the file; one is made at a time, on a thread that
gives way to everything else, and never of files beyond a bound; who asks waits a little and is then told that there is
none, which costs him the whole file and nothing else; all patches together are bounded in number, bytes and age.
Nothing here is trusted by anybody: see `bundle.patch`, which has the form, and ADR 0033. Neighbour: `hub` asks.
"""

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import structlog

from edgeloop.bundle.archive import digest
from edgeloop.bundle.patch import LEAST_BYTES, Window, is_worth, pack_block, pack_head, windows
from edgeloop.cloud.store import registry
from edgeloop.cloud.store.blobs import Blobs, Listed
from edgeloop.cloud.store.database import Database
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import EdgeloopError, NotFound
from edgeloop.contracts.messages import PatchOffer
from edgeloop.contracts.names import NOTHING, PatchName

_log = structlog.get_logger(__name__)

_FOLDER = "patches"
_NICER = 10
"""How much the thread that makes patches gives way to the event loop's, in steps of `nice`."""
_MOST_REMEMBERED = 4096


@dataclass(frozen=True)
class PatchBounds:
    """How much patches may cost. max_file_bytes: of a larger file none are made. wait_s: how long who asks waits while
    one is made, less than devices have patience. max_waiting: patches to be made at a time; who asks for more is told
    that there are none. max_bytes, max_count, max_age_s: of all that are kept; the oldest give way.
    """

    max_file_bytes: int = 64 * 1024 * 1024
    wait_s: float = 8.0
    max_waiting: int = 16
    max_bytes: int = 256 * 1024 * 1024
    max_count: int = 1_000
    max_age_s: float = 30 * 86_400.0


class Patches:
    """The patches of a cloud. Belongs to one event loop; replicas share what lies among the blobs."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        *,
        bounds: PatchBounds | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._bounds = bounds or PatchBounds()
        self._clock = clock
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="patches", initializer=_give_way)
        self._one_at_a_time = asyncio.Lock()
        self._making: dict[PatchName, asyncio.Task[None]] = {}
        self._kept: dict[PatchName, PatchOffer] = {}
        self._not_worth_it: OrderedDict[PatchName, None] = OrderedDict()

    async def offer(self, name: PatchName) -> bytes:
        """The offer of a patch, as it is served. Raises NotFound where there is none, or none yet."""
        offer = self._kept.get(name)
        if offer is not None and await self._blobs.size_bytes(_key(name, offer.sha256)) is None:
            self._kept.pop(name, None)  # it gave way to others, at another replica
        if name not in self._kept and name not in self._not_worth_it:
            await self._wait_for(name)
        offer = self._kept.get(name)
        if offer is None:
            raise NotFound(f"no patch to {name.want[:12]} out of {name.base[:12]} is worth it; fetch the file")
        return to_json(offer)

    async def key_of(self, sha256: str) -> str:
        """Where the patch whose own bytes have this hash is among the blobs. Raises NotFound."""
        for looked in (False, True):
            if looked:
                await self._look()
            for name, offer in self._kept.items():
                if offer.sha256 == sha256:
                    return _key(name, sha256)
        raise NotFound(f"there is no file {sha256[:12]} here")

    async def close(self) -> None:
        """Give up what is being made."""
        tasks = list(self._making.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._worker.shutdown(wait=True, cancel_futures=True)

    async def _wait_for(self, name: PatchName) -> None:
        """Have it made, once for all who ask meanwhile. Raises NotFound if that takes too long."""
        task = self._making.get(name)
        if task is None:
            if len(self._making) >= self._bounds.max_waiting:
                raise NotFound(f"{len(self._making)} patches are being made; fetch the file, or ask again later")
            task = self._making[name] = asyncio.create_task(self._have(name))
            task.add_done_callback(lambda ended: self._ended(name, ended))
        try:
            async with asyncio.timeout(self._bounds.wait_s):
                await asyncio.shield(task)
        except TimeoutError as error:
            raise NotFound(
                f"the patch to {name.want[:12]} is being made; fetch the file, or ask again later"
            ) from error

    def _ended(self, name: PatchName, task: "asyncio.Task[None]") -> None:
        del self._making[name]
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, NotFound):
            _log.warning("patch_not_made", want=name.want, base=name.base, detail=str(error))

    async def _have(self, name: PatchName) -> None:
        """Know of the patch: it is there already, perhaps from another replica, or is made now, or is not worth it."""
        async with self._one_at_a_time:
            await self._look()
            if name in self._kept:
                return
            begun_s = time.monotonic()
            data = await self._make(name)
            if data is None:
                self._not_worth_it[name] = None
                if len(self._not_worth_it) > _MOST_REMEMBERED:
                    self._not_worth_it.popitem(last=False)
                return
            offer = PatchOffer(sha256=await asyncio.to_thread(digest, data), size_bytes=len(data))
            await self._blobs.put(_key(name, offer.sha256), data)
            self._kept[name] = offer
            took_s = round(time.monotonic() - begun_s, 2)
            _log.info("patch_made", want=name.want, base=name.base, size_bytes=len(data), took_s=took_s)
            await self._prune(newest=name)

    async def _look(self) -> list[Listed]:
        """Take in what is kept; oldest first."""
        found = [one for one in await self._blobs.listed(_FOLDER) if _named(one) is not None]
        self._kept = dict(named for one in found if (named := _named(one)) is not None)
        return found

    async def _make(self, name: PatchName) -> bytes | None:
        """The patch, None if it is not worth it. Raises NotFound if want or base is not published."""
        want = await self._content(name.want)
        base = _Content(0, _nothing) if name.base == NOTHING else await self._content(name.base)
        if not LEAST_BYTES <= want.size_bytes <= self._bounds.max_file_bytes:
            return None
        if base.size_bytes > self._bounds.max_file_bytes:
            return None
        grown_bytes = want.size_bytes - base.size_bytes
        patch = bytearray(pack_head(want.size_bytes, base.size_bytes))
        for window in windows(want.size_bytes, base.size_bytes):
            patch += await self._block(window, want, base, grown_bytes)
            if not is_worth(len(patch), want.size_bytes):
                return None
        return bytes(patch)

    async def _block(self, window: Window, want: "_Content", base: "_Content", grown_bytes: int) -> bytes:
        part = await want.read(window.start, window.stop)
        near = await base.read(window.base_start, window.base_stop) if window.base_stop > window.base_start else b""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, lambda: pack_block(part, near, window, grown_bytes=grown_bytes))

    async def _content(self, sha256: str) -> "_Content":
        key = registry.file_key(sha256)
        size_bytes = await self._blobs.size_bytes(key)
        if size_bytes is not None:
            return _Content(size_bytes, lambda start, stop: self._blobs.get(key, start=start, stop=stop))
        data = await self._database.read(lambda connection: registry.manifest_of(connection, sha256))

        async def read(start: int, stop: int) -> bytes:
            return data[start:stop]

        return _Content(len(data), read)

    async def _prune(self, *, newest: PatchName) -> None:
        """Let the oldest go until all bounds hold."""
        bounds, kept = self._bounds, await self._look()
        left_bytes, left = sum(one.size_bytes for one in kept), len(kept)
        gone = []
        for one in kept:
            is_old = self._clock() - one.kept_at_s > bounds.max_age_s
            if one.key == _key(newest, self._kept[newest].sha256):
                continue
            if is_old or left_bytes > bounds.max_bytes or left > bounds.max_count:
                gone.append(one.key)
                left_bytes, left = left_bytes - one.size_bytes, left - 1
        try:
            await self._blobs.remove(gone)
        except EdgeloopError as error:  # the next patch that is made comes by here, too
            _log.warning("patches_not_removed", count=len(gone), detail=str(error))


@dataclass(frozen=True)
class _Content:
    """Something published: read is as of `Served`."""

    size_bytes: int
    read: Callable[[int, int], Awaitable[bytes]]


async def _nothing(start: int, stop: int) -> bytes:
    return b""


def _key(name: PatchName, sha256: str) -> str:
    """Where a patch is among the blobs: all that an offer says stands in its key and its size."""
    return f"{_FOLDER}/{name.want}.{name.base}.{sha256}"


def _named(one: Listed) -> tuple[PatchName, PatchOffer] | None:
    """What such a blob is; None for what was never put there by us."""
    parts = one.key.removeprefix(f"{_FOLDER}/").split(".")
    if len(parts) != 3 or not one.size_bytes:
        return None
    return PatchName(parts[0], parts[1]), PatchOffer(sha256=parts[2], size_bytes=one.size_bytes)


def _give_way() -> None:
    """Run at a lower priority than the rest of the process, where threads have one of their own (Linux)."""
    thread = threading.get_native_id()
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICER)
