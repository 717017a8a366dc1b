"""Patches that a node has carried, within bounds.

A patch is cached as any file is, by its own hash; its offer, which is cached beside, tells that it is one. Bundles'
files stay; patches are of use for as long as devices move from one version to the next, so the oldest give way.
Neighbour: `cache` carries both.
"""

import asyncio
from contextlib import suppress
from pathlib import Path

from edgeloop.bundle.durable import translated
from edgeloop.contracts.codec import from_json
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.messages import PatchOffer
from edgeloop.contracts.names import PatchName, file_target, parse_offer_path

MOST_BYTES = 256 * 1024 * 1024
MOST_COUNT = 1_000
"""Of all patches that a node keeps."""


class PassedPatches:
    """The patches in a cache's folder, oldest first. Belongs to one event loop."""

    def __init__(self, folder: Path, *, most_bytes: int = MOST_BYTES, most_count: int = MOST_COUNT) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._most_count = most_count
        self._passed: dict[PatchName, PatchOffer] | None = None
        self._lock = asyncio.Lock()

    async def note(self, name: PatchName) -> None:
        """An offer was cached just now; what is then too much gives way."""
        async with self._lock:
            await asyncio.to_thread(self._note, name)

    def _note(self, name: PatchName) -> None:
        passed = self._passed = self._read_all() if self._passed is None else self._passed
        offer = _read(self._folder / name.offer_path)
        if offer is None:
            return
        passed[name] = offer  # one that is known keeps its place: the first to come is the first to go
        while len(passed) > self._most_count or sum(one.size_bytes for one in passed.values()) > self._most_bytes:
            oldest = next(iter(passed))
            self._let_go(oldest, passed.pop(oldest))

    def _let_go(self, name: PatchName, offer: PatchOffer) -> None:
        file = self._folder / "targets" / file_target(offer.sha256)
        place = self._folder / name.offer_path
        with translated(file, doing="write"):
            for path in (file, file.with_name(f"{file.name}.part"), place):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # there are offers of other patches to the same file
            place.parent.rmdir()

    def _read_all(self) -> dict[PatchName, PatchOffer]:
        """Those of the processes before, in the order in which they came."""
        places = sorted(self._folder.glob("patches/*/*"), key=lambda path: path.stat().st_mtime)
        found: dict[PatchName, PatchOffer] = {}
        for place in places:
            name, offer = parse_offer_path(place.relative_to(self._folder).as_posix()), _read(place)
            if name is not None and offer is not None:
                found[name] = offer
        return found


def _read(place: Path) -> PatchOffer | None:
    """An offer as it is cached; None for what is none, which costs nothing but its own few bytes."""
    try:
        return from_json(place.read_bytes(), PatchOffer, what=str(place))
    except (OSError, EdgeloopError):
        return None
