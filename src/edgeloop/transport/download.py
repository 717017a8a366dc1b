"""One file onto a shelf, over links that break: by HTTP ranges, from cut to cut, with the bytes kept.

Rules kept here: nothing is begun that does not fit on the disk; it goes on for as long as something comes that is worth
the waiting; what came in several pieces, or before a power cut, may be torn: held to its hash it is found out, and
fetched once more whole. Neighbours: `uplink` carries bytes and gives up what drips, `bundle.shelf` keeps them,
`metering` says when a download may begin.
"""

import asyncio
import time
from collections.abc import Callable

from edgeloop.backoff import Backoff
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Corrupt, Unavailable
from edgeloop.transport.again import asked_wait_s
from edgeloop.transport.uplink import Uplink

_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_MOST_FRUITLESS = 4
"""Cuts in a row after nothing came before the caller decides when it is tried again."""


class Download:
    """One file that is to come. path: what is fetched. on_bytes: told of all that comes, also of what is thrown away.

    `await Download(uplink, "targets/files/...", shelf, sha256=..., size_bytes=...).run()`
    """

    def __init__(
        self,
        uplink: Uplink,
        path: str,
        shelf: Shelf,
        *,
        sha256: str,
        size_bytes: int,
        on_bytes: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._uplink = uplink
        self._path = path
        self._shelf = shelf
        self._sha256 = sha256
        self._size_bytes = size_bytes
        self._on_bytes = on_bytes

    async def run(self) -> None:
        """Have it on the shelf, whole and verified. Raises Unavailable if it must be tried again later: what came so
        far is kept; NotFound if there is no such file.
        """
        try:
            await self._bring()
        except Corrupt as torn:
            self._shelf.discard_part(self._sha256)
            try:
                await self._bring()
            except Corrupt as error:
                raise Unavailable(f"{self._path} came damaged twice ({error}); it is tried again later") from torn

    @property
    def _have_bytes(self) -> int:
        return self._shelf.part_size_bytes(self._sha256)

    async def _bring(self) -> None:
        """Go on from cut to cut, as long as something comes that is worth the waiting."""
        backoff = Backoff(first_s=_PAUSE_S, longest_s=_LONGEST_PAUSE_S)
        fruitless = 0
        if self._have_bytes > self._size_bytes:
            self._shelf.discard_part(self._sha256)
        if self._size_bytes == 0:
            self._shelf.append_part(self._sha256, b"")
        while (have_bytes := self._have_bytes) < self._size_bytes:
            self._shelf.require_room(self._size_bytes - have_bytes)
            begun_s = time.monotonic()
            try:
                await self._take_up(have_bytes)
            except Unavailable as error:
                took_s = time.monotonic() - begun_s
                if self._was_worth_it(self._have_bytes - have_bytes, took_s):
                    fruitless = 0
                    backoff.succeeded()
                    continue
                fruitless += 1
                if fruitless == _MOST_FRUITLESS or took_s >= self._uplink.patience.quick_s:
                    raise
                await asyncio.sleep(asked_wait_s(error, backoff))
        await asyncio.to_thread(self._shelf.finish_part, self._sha256)

    def _was_worth_it(self, gained_bytes: int, took_s: float) -> bool:
        slowest = self._uplink.patience
        return gained_bytes * slowest.window_s > slowest.least_bytes * took_s

    async def _take_up(self, have_bytes: int) -> None:
        """What is left, over one connection. Raises Unavailable if it ends before the file does."""
        left_bytes = self._size_bytes - have_bytes
        async for chunk in self._uplink.fetch_from(self._path, offset_bytes=have_bytes, max_bytes=left_bytes):
            self._on_bytes(len(chunk))
            self._shelf.append_part(self._sha256, chunk)
        if self._have_bytes < self._size_bytes:
            raise Unavailable(f"{self._path} broke off after {self._have_bytes:,} of {self._size_bytes:,} bytes")
