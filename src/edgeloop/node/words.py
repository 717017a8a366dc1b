"""The signed metadata of a node's devices, in one answer each: asked for above once for all of them, and kept.

Rules kept here: an untrusted mirror, as `cache` is; devices check everything themselves. What was asked for within the
last seconds is not asked for again, unless the hub above has told of a newer assignment than is here. Those who ask at
once share one question, and with them all devices of which there is such news. While the hub above is away the last
copies stand in, also after a restart. Neighbours: `hub` says who may ask; `copies` has what is kept of each repository.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import structlog

from edgeloop.contracts.errors import Corrupt, InvalidInput, Unavailable
from edgeloop.contracts.messages import MAX_ALONG_BYTES, MAX_PLACES, Assignment, Held, TrustReply, TrustRequest
from edgeloop.hub.along import SmallFiles
from edgeloop.hub.together import DIRECTOR, IMAGES, Together, device_of, kind_of
from edgeloop.node.cache import Cache
from edgeloop.node.copies import Copy, taken_in
from edgeloop.transport.keep import Keep
from edgeloop.transport.uplink import Uplink

T = TypeVar("T")

_log = structlog.get_logger(__name__)
_FRESH_S = 5.0
_GATHER_S = 0.05
"""Devices that hear of the same news ask within this time."""
_ROOTS = "signed roots"


class CarriedWords:
    """Answers the `trust` verb for devices of a node. Belongs to one event loop.

    told: generations that the hub above has told of, by device. clock_s: seconds that pass.
    """

    def __init__(
        self,
        uplink: Uplink,
        keep: Keep,
        cache: Cache,
        *,
        told: Callable[[], Mapping[str, int]],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._uplink = uplink
        self._keep = keep
        self._cache = cache
        self._told = told
        self._clock_s = clock_s
        self._roots = self._kept(_ROOTS, dict[str, list[bytes]])
        self._copies: dict[str, Copy] = {}
        self._asked_at_s: dict[str, float] = {}
        self._wanted: set[str] = set()
        self._next: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._small = SmallFiles(self._read)

    async def newer(self, request: TrustRequest) -> TrustReply:
        """What is not held of each place that is asked for. Raises NotFound where the hub above is older than the
        question, Unavailable where it is away and nothing is here.
        """
        if any(not self._is_fresh(place) for place in request.held):
            await self._refresh(request.held)
        together, assigned = Together(), dict[str, Assignment]()
        for place, held in request.held.items():
            copy = self._copy(place)
            if copy is None or not copy.is_whole:
                continue
            together.add(place, copy.newer(held, self._roots.get(kind_of(place), [])))
            if copy.assignment is not None and held.targets != copy.held.targets:
                assigned[copy.assignment.manifest_sha256] = copy.assignment
        return together.reply(await self._small.of(assigned.values(), most_bytes=request.along_bytes))

    async def close(self) -> None:
        """End what is being asked."""
        for task in (under_way := list(self._under_way)):
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)

    def _is_fresh(self, place: str) -> bool:
        copy = self._copy(place)
        age_s = self._clock_s() - self._asked_at_s.get(place, float("-inf"))
        return copy is not None and age_s < _FRESH_S and not self._is_behind(place, copy)

    def _is_news(self, place: str) -> bool:
        copy = self._copy(place)
        return copy is None or self._is_behind(place, copy)

    def _is_behind(self, place: str, copy: Copy) -> bool:
        return copy.generation is not None and copy.generation < self._told().get(device_of(place), 0)

    async def _refresh(self, places: Iterable[str]) -> None:
        """Have asked above since now; what came stays where nothing newer comes."""
        self._wanted.update(places)
        if self._next is None:
            self._next = asyncio.create_task(self._ask_next())
            self._under_way.add(self._next)
            self._next.add_done_callback(self._ended)
        asking = self._next
        await asyncio.wait([asking])
        if asking.cancelled():
            raise Unavailable("this node is ending; ask again")
        try:
            asking.result()
        except Unavailable:
            # Where there is news, an old copy is no answer: who is told that it broke off asks file by file.
            if any(self._is_news(place) for place in places):
                raise

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever waited; if nobody does any more, to nobody

    async def _ask_next(self) -> None:
        """One question at a time; who comes before it is put joins it, who comes later the next one."""
        await asyncio.sleep(_GATHER_S)
        async with self._turn:
            wanted, self._next, self._wanted = self._wanted, None, set()
            behind = (place for one in self._told() if self._is_news(place := f"{DIRECTOR}{one}"))
            due = dict.fromkeys(one for one in (*wanted, *behind) if not self._is_fresh(one))
            devices = [one for one in due if one != IMAGES]
            most = MAX_PLACES - 1
            # What exists is asked for each time: nobody is to be told to run what is not among it.
            for start in range(0, len(devices) or len(due), most):
                await self._ask([IMAGES, *devices[start : start + most]])

    async def _ask(self, places: list[str]) -> None:
        began_s = self._clock_s()
        reply = await self._uplink.trust(TrustRequest(held={place: self._held(place) for place in places}))
        asked = {path: data for path, data in reply.metadata.items() if path.partition("/metadata/")[0] in places}
        changes = taken_in(asked, self._copies, self._roots)
        for kind in changes.kinds_with_new_roots:  # what an older root's keys signed is no longer the newest
            self._asked_at_s = {one: at_s for one, at_s in self._asked_at_s.items() if kind_of(one) != kind}
        self._asked_at_s |= dict.fromkeys(set(reply.whole) & set(places), began_s)
        kept: dict[str, object] = {_name(place): self._copies[place].files for place in changes.places}
        if changes.kinds_with_new_roots:
            kept[_ROOTS] = self._roots
        for place in set(places) - set(reply.whole):  # what was left out is to be asked for file by file
            self._copies.pop(place, None)
            kept[_name(place)] = None
        try:
            await asyncio.to_thread(self._keep.set, kept)
        except Unavailable as error:  # all that is lost is what stands in after a restart
            _log.warning("signed_words_not_kept", detail=str(error))

    def _held(self, place: str) -> Held:
        copy, roots = self._copy(place), self._roots.get(kind_of(place), [])
        return Held(root=len(roots)) if copy is None else copy.held_with(roots)

    def _copy(self, place: str) -> Copy | None:
        if place not in self._copies:
            kept = self._kept(_name(place), dict[str, bytes])
            if not kept:
                return None
            self._copies[place] = Copy(kept)
        return self._copies[place]

    def _kept(self, name: str, kind: type[dict[str, T]]) -> dict[str, T]:
        """What was written down; nothing where that cannot be read: it is asked for anew."""
        try:
            return self._keep.get(name, kind) or {}
        except (Corrupt, InvalidInput) as error:
            _log.warning("signed_words_unreadable", detail=str(error))
            return {}

    async def _read(self, path: str) -> bytes:
        served = await self._cache.get(path)
        if served.size_bytes > MAX_ALONG_BYTES:  # whatever a manifest that nobody has checked says of it
            raise InvalidInput(f"{path} has {served.size_bytes:,} bytes; what comes along has {MAX_ALONG_BYTES:,}")
        return await served.read(0, served.size_bytes)


def _name(place: str) -> str:
    return f"signed {place}"
