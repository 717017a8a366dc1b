"""Where a device's bundles come from: signed words through TUF, bytes by resumed ranges, all over the uplink.

Signed words are asked for with each assignment, and once a day beside that: a key that was revoked is then worth
nothing here any more, the floor of time rises, and it is known in time when nothing fresh comes.
"""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import structlog

from edgeloop.backoff import Backoff
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Corrupt, EdgeloopError, Refused, Unavailable
from edgeloop.contracts.messages import Assignment, TrustHealth
from edgeloop.transport.membership import Membership
from edgeloop.transport.trusted import Trusted
from edgeloop.transport.uplink import Uplink

if TYPE_CHECKING:
    from edgeloop.transport.trust import Trust

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_FIRST_REFRESH_S = 3600.0
_REFRESH_EVERY_S = 86_400.0
_REFRESH_AGAIN_S = 3600.0
_WARN_S = 2 * 86_400.0
_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_MOST_FRUITLESS = 4
"""Cuts in a row after nothing came before the caller decides when it is tried again."""
_WORTH_TRYING_S = 5.0


class HubSupply:
    """Implements update.Supply. Belongs to one event loop; TUF's checks run on a thread."""

    def __init__(self, uplink: Uplink, member: Membership, folder: Path) -> None:
        self._uplink = uplink
        self._member = member
        self._trusted = Trusted(member, folder, self._fetch, clock=uplink.latest_time_s)
        self._expires_at_s: float | None = None
        self._trouble = ""
        self._generation: int | None = None

    async def assignment(self) -> Assignment | None:
        """See Supply.assignment."""
        found, self._generation = await self._ask(
            lambda trust: (trust.assignment(self._member.device_id), trust.generation())
        )
        return found

    def require_generation(self, generation: int) -> None:
        """Raise Unavailable if the last assignment was an older one than the hub told of: a node may have only that
        while the cloud is away, and whoever holds metadata back would else be believed for good.
        """
        if self._generation is not None and self._generation < generation:
            raise Unavailable(
                f"the hub told of assignment {generation}, what is signed here is of {self._generation}; "
                "it is asked for again"
            )

    async def refresh(self) -> None:
        """Bring what is signed up to date. Raises Refused or Unavailable, as `assignment`."""
        await self._ask(lambda trust: trust.refresh(self._member.device_id))

    async def keep_fresh(self) -> None:
        """`refresh` once a day, until cancelled; devices that start together do not ask together."""
        wait_s = random.uniform(_FIRST_REFRESH_S / 10, _FIRST_REFRESH_S)  # noqa: S311 - spreads load, hides nothing
        while True:
            await asyncio.sleep(wait_s)
            try:
                await self.refresh()
            except EdgeloopError as error:
                _log.warning("signed_words_not_fresh", code=error.code, detail=str(error))
                wait_s = _REFRESH_AGAIN_S
            else:
                wait_s = _REFRESH_EVERY_S

    @property
    def trust(self) -> TrustHealth:
        """How it stands with what is signed, for the device's report."""
        trouble = self._trouble
        expires_at_s = self._expires_at_s
        if not trouble and expires_at_s is not None:
            left_s = expires_at_s - self._uplink.latest_time_s()
            if left_s < _WARN_S:
                trouble = (
                    f"what is signed is good for {max(0.0, left_s) / 3600:.0f} hours more, and nothing fresher came"
                )
        return TrustHealth(expires_at_s=expires_at_s or 0.0, trouble=trouble)

    async def _ask(self, question: Callable[["Trust"], T]) -> T:
        try:
            answer = await self._trusted.ask(question)
            self._expires_at_s = await self._trusted.ask(lambda trust: trust.expires_at_s())
        except Refused as error:
            self._trouble = str(error)
            raise
        self._trouble = ""
        return answer

    async def check(self, target: str, sha256: str) -> int:
        """See Supply.check."""
        found = await self._trusted.ask(lambda trust: trust.image(target))
        if found.hashes.get("sha256") != sha256:
            raise Refused(f"{target} is signed with another hash than the {sha256[:12]} that is wanted")
        return int(found.length)

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch. What came over several tries and a power cut may be torn: it is fetched once more whole."""
        try:
            await self._download(target, shelf, sha256, size_bytes)
        except Corrupt as torn:
            shelf.discard_part(sha256)
            try:
                await self._download(target, shelf, sha256, size_bytes)
            except Corrupt as error:
                raise Unavailable(f"{target} came damaged twice ({error}); it is tried again later") from torn

    async def _download(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """Go on from cut to cut, as long as something comes that is worth the waiting."""
        backoff = Backoff(first_s=_PAUSE_S, longest_s=_LONGEST_PAUSE_S)
        fruitless = 0
        if shelf.part_size_bytes(sha256) > size_bytes:
            shelf.discard_part(sha256)
        while (have_bytes := shelf.part_size_bytes(sha256)) < size_bytes:
            shelf.require_room(size_bytes - have_bytes)
            begun_s = time.monotonic()
            try:
                await self._take_up(target, shelf, sha256, size_bytes)
            except Unavailable:
                took_s = time.monotonic() - begun_s
                gained_bytes = shelf.part_size_bytes(sha256) - have_bytes
                slowest = self._uplink.patience
                if gained_bytes * slowest.window_s > slowest.least_bytes * took_s:
                    fruitless = 0
                    backoff.succeeded()
                    continue
                fruitless += 1
                if fruitless == _MOST_FRUITLESS or took_s >= _WORTH_TRYING_S:
                    raise
                await asyncio.sleep(backoff.failed())
        await asyncio.to_thread(shelf.finish_part, sha256)

    async def _take_up(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """What is left, over one connection. Raises Unavailable if it ends before the file does."""
        have_bytes = shelf.part_size_bytes(sha256)
        left_bytes = size_bytes - have_bytes
        async for chunk in self._uplink.fetch_from(f"targets/{target}", offset_bytes=have_bytes, max_bytes=left_bytes):
            shelf.append_part(sha256, chunk)
        got_bytes = shelf.part_size_bytes(sha256)
        if got_bytes < size_bytes:
            raise Unavailable(f"{target} broke off after {got_bytes:,} of {size_bytes:,} bytes")

    async def _fetch(self, path: str, max_bytes: int) -> bytes:
        return await self._uplink.fetch(path, max_bytes=max_bytes)
