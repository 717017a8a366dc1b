"""The models that a node answers with: those that the targets key signed, their bytes out of the node's cache.

Rules kept here:
- the node is a TUF client of its own, whose trust began with its enrolment; hubs above and the cache are mirrors;
- what is signed is asked for at most every few seconds and kept through restarts; while the hub above is away the last
  word counts, until it expires;
- a manifest and each file are held to the hash that is signed, each time they are read.

Neighbours: `transport.trusted` asks, `cache` has the bytes, `answer` answers.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound, Refused, Unavailable
from edgeloop.contracts.manifest import FileEntry
from edgeloop.contracts.names import BundleRef, file_target, manifest_target, version_key
from edgeloop.node.cache import Cache
from edgeloop.transport.membership import Membership
from edgeloop.transport.trusted import Trusted

if TYPE_CHECKING:
    from edgeloop.transport.trust import Trust

_log = structlog.get_logger(__name__)

_PATIENCE_S = 0.5


@dataclass(frozen=True)
class _Word:
    """What is signed, and the newest version of each name in it."""

    targets: Mapping[str, FileEntry]
    newest: Mapping[str, BundleRef]
    expires_at_s: float


class SignedModels:
    """Implements runtime.answerer.Models. Belongs to one event loop.

    folder: for what is trusted. asked_every_s: what is signed is asked for no more often. clock: seconds since 1970.
    """

    def __init__(
        self,
        cache: Cache,
        member: Membership,
        folder: Path,
        *,
        asked_every_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._asked_every_s = asked_every_s
        self._trusted = Trusted(member, folder, self._fetch)
        self._clock = clock
        self._word: _Word | None = None
        self._failure: Exception | None = None
        self._asked_at_s = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def find(self, name: str, version: str | None) -> BundleRef:
        """See Models.find. Raises Refused if the targets key never signed it, Unavailable if nothing is known here."""
        word = await self._known()
        if version is None:
            if name not in word.newest:
                raise NotFound(f"no bundle named {name!r} is signed")
            return word.newest[name]
        ref = BundleRef(name, version)
        _entry(word, manifest_target(ref))
        return ref

    async def manifest(self, ref: BundleRef) -> bytes:
        """See Models.manifest."""
        return await self._read(manifest_target(ref))

    async def file(self, sha256: str) -> bytes:
        """See Models.file."""
        return await self._read(file_target(sha256), sha256=sha256)

    async def close(self) -> None:
        """End what is being asked."""
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking

    async def _read(self, target: str, *, sha256: str | None = None) -> bytes:
        entry = _entry(await self._known(), target)
        if sha256 not in (None, entry.sha256):
            raise Refused(f"{target} is signed with another hash, {entry.sha256[:12]}")
        return await self._cache.get_exactly(f"targets/{target}", entry)

    async def _known(self) -> _Word:
        """What is signed as far as it is known here. Who finds that it is time to ask waits a moment for the answer."""
        if self._asking is None and time.monotonic() - self._asked_at_s >= self._asked_every_s:
            self._asking = asyncio.create_task(self._ask())
            await asyncio.wait([self._asking], timeout=_PATIENCE_S)
        if self._asking is not None and not self._is_good():
            await asyncio.shield(self._asking)
        if self._word is not None and self._is_good():
            return self._word
        raise Unavailable(f"what is signed is not known here: {self._failure or 'it expired'}") from self._failure

    def _is_good(self) -> bool:
        return self._word is not None and self._clock() < self._word.expires_at_s

    async def _ask(self) -> None:
        try:
            self._word, self._failure = await self._trusted.ask(_word), None
        except (EdgeloopError, OSError) as error:
            _log.warning("signed_not_known", reason=str(error))
            self._failure = error
            if isinstance(error, Refused):
                self._word = None
        finally:
            self._asked_at_s = time.monotonic()
            self._asking = None

    async def _fetch(self, path: str, max_bytes: int) -> bytes:
        served = await self._cache.get(path)
        return await served.read(0, min(served.size_bytes, max_bytes))


def _word(trust: "Trust") -> _Word:
    signed = trust.signed()
    newest: dict[str, BundleRef] = {}
    for ref in filter(None, map(_bundle_of, signed.targets)):
        if ref.name not in newest or version_key(newest[ref.name].version) < version_key(ref.version):
            newest[ref.name] = ref
    return _Word(signed.targets, newest, signed.expires_at_s)


def _bundle_of(target: str) -> BundleRef | None:
    """The bundle whose manifest this is; None of anything else."""
    parts = target.split("/")
    if len(parts) != 4:
        return None
    try:
        ref = BundleRef.parse(f"{parts[1]}@{parts[2]}")
    except InvalidInput:
        return None
    return ref if manifest_target(ref) == target else None


def _entry(word: _Word, target: str) -> FileEntry:
    if target not in word.targets:
        raise Refused(f"the targets key never signed {target}; as far as this node is concerned it does not exist")
    return word.targets[target]
