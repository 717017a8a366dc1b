"""Where a device's bundles come from: signed words through TUF, bytes by resumed ranges, all over the uplink.

Signed words are asked for with each assignment, and once a day beside that: a key that was revoked is then worth
nothing here any more, the floor of time rises, and it is known in time when nothing fresh comes. They come in one
answer, and with those of an assignment the small files that it needs, held to their hashes as all others.
"""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
import structlog

from edgeloop.bundle.archive import digest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import EdgeloopError, Refused, Unavailable
from edgeloop.contracts.messages import MAX_ALONG_BYTES, Assignment, TrustHealth, TrustReply, TrustRequest
from edgeloop.transport.download import Download
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


class HubSupply:
    """Implements downloads.Supply. Belongs to one event loop; TUF's checks run on a thread."""

    waited_s = 0.0
    """See Supply.waited_s: nothing waits for leave here."""

    def __init__(self, uplink: Uplink, member: Membership, folder: Path) -> None:
        self._uplink = uplink
        self._member = member
        self._trusted = Trusted(member, folder, self._fetch, fetch_all=self._fetch_all, clock=uplink.latest_time_s)
        self._along: dict[str, bytes] = {}
        self._along_bytes = 0
        self._expires_at_s: float | None = None
        self._trouble = ""
        self._generation: int | None = None

    async def assignment(self) -> Assignment | None:
        """See Supply.assignment."""
        self._along_bytes = MAX_ALONG_BYTES
        try:
            found, self._generation = await self._ask(
                lambda trust: (trust.assignment(self._member.device_id), trust.generation())
            )
        finally:
            self._along_bytes = 0
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
            except Exception as error:  # noqa: BLE001 - the outer guard: what is signed is asked for as long as it runs
                _log.error("refresh_broke", exc_info=error)
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

    def is_at_hand(self, target: str) -> bool:
        """See Supply.is_at_hand."""
        return f"targets/{target}" in self._along

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch."""
        path = f"targets/{target}"
        data = self._along.pop(path, b"")
        if len(data) == size_bytes and digest(data) == sha256:
            shelf.require_room(size_bytes)
            await asyncio.to_thread(shelf.put, sha256, data)
            self._uplink.traffic_bytes["fetch"] += size_bytes
            return
        await Download(self._uplink, path, shelf, sha256=sha256, size_bytes=size_bytes).run()

    async def _fetch(self, path: str, max_bytes: int) -> bytes:
        return await self._uplink.fetch(path, max_bytes=max_bytes)

    async def _fetch_all(self, request: TrustRequest) -> TrustReply:
        self._along = {}
        reply = await self._uplink.trust(msgspec.structs.replace(request, along_bytes=self._along_bytes))
        self._along = reply.along
        return reply
