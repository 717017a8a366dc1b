"""Downloads as patches against what the device has, where its hub offers one that is clearly smaller than the file.

Rules kept here: a patch is never trusted: what it makes takes its place by the hash that the targets key signed, and
what a patch may take of disk and memory is bounded before. A patch that fails in any way, or that nobody offers, costs
the download of the whole file and nothing else; only a link that breaks while a patch comes in is waited for a few
times, since what came is kept. Neighbours: `bundle.patch` has the form, `metered` and `supply` bring patches as they
bring files.
"""

import asyncio
import io
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import structlog

from edgeloop.bundle.archive import Bundle, digest, parse_manifest
from edgeloop.bundle.patch import LEAST_BYTES, apply_patch, is_worth
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.codec import from_json
from edgeloop.contracts.errors import Corrupt, EdgeloopError, NotFound, Unavailable
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.messages import Assignment, PatchOffer
from edgeloop.contracts.names import NOTHING, PatchName, file_target
from edgeloop.contracts.output import Embedding
from edgeloop.device.downloads import Supply
from edgeloop.device.duty import in_full
from edgeloop.transport.uplink import Uplink

_log = structlog.get_logger(__name__)

_PATCHES = "patches"
"""In the shelf's folder, a shelf of its own."""
_MOST_OFFER_BYTES = 1024
_MOST_FAILED = 64
_MOST_FRUITLESS = 5
"""Tries in a row of which nothing came: then the whole file is fetched, and the patch tried once each time before."""


@dataclass(frozen=True)
class Base:
    """Something on the shelf that may be like what is wanted."""

    sha256: str
    open: Callable[[], AbstractContextManager[BinaryIO]]


class PatchedSupply:
    """Implements downloads.Supply over another one, which brings patches and, without one, whole files."""

    def __init__(self, supply: Supply, uplink: Uplink) -> None:
        self._supply = supply
        self._uplink = uplink
        self._manifest_sha256 = ""
        self._failed: set[str] = set()
        self._fruitless: Counter[str] = Counter()

    @property
    def waited_s(self) -> float:
        """See Supply.waited_s."""
        return self._supply.waited_s

    async def assignment(self) -> Assignment | None:
        """See Supply.assignment."""
        return await self._supply.assignment()

    async def check(self, target: str, sha256: str) -> int:
        """See Supply.check. The manifest that was checked last says what the files are for that are fetched next."""
        size_bytes = await self._supply.check(target, sha256)
        if target.startswith("bundles/"):
            self._manifest_sha256 = sha256
        return size_bytes

    def is_at_hand(self, target: str) -> bool:
        """See Supply.is_at_hand."""
        return self._supply.is_at_hand(target)

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch."""
        is_quick = size_bytes < LEAST_BYTES or self._supply.is_at_hand(target)
        if is_quick or not await self._by_patch(target, shelf, sha256, size_bytes):
            await self._supply.fetch(target, shelf, sha256, size_bytes)

    async def _by_patch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> bool:
        """Whether the file is there now. Raises Unavailable while a patch is still to come."""
        # Apart from the bundles' files: whoever offers a patch must not be able to name one of them.
        offer, patches = None, Shelf(shelf.folder / _PATCHES)
        try:
            base = await asyncio.to_thread(self._base, target, shelf, sha256)
            name = PatchName(sha256, base.sha256 if base else NOTHING)
            offer = await self._offer(name)
            if offer is None or not self._is_worth(offer, patches, size_bytes, shelf.part_size_bytes(sha256)):
                return False
            shelf.require_room(offer.size_bytes - _have_bytes(offer, patches) + size_bytes)
            await self._bring(offer, patches)
            # In full: what comes next may write the same file.
            await in_full(partial(_make, shelf, patches, offer, base, sha256, size_bytes))
        except _StillToCome as error:
            raise Unavailable(str(error)) from error
        except EdgeloopError as error:
            _log.warning("patch_not_used", target=target, code=error.code, detail=str(error))
            if offer is not None and not isinstance(error, Unavailable):
                await asyncio.to_thread(self._give_up, offer, patches)
            return False
        _log.info("patched", target=target, size_bytes=size_bytes, patch_bytes=offer.size_bytes)
        return True

    async def _offer(self, name: PatchName) -> PatchOffer | None:
        try:
            data = await self._uplink.fetch(name.offer_path, max_bytes=_MOST_OFFER_BYTES)
        except NotFound:  # none is worth it, or the hub is older than patches
            return None
        return from_json(data, PatchOffer, what="the hub's offer of a patch")

    def _is_worth(self, offer: PatchOffer, patches: Shelf, size_bytes: int, part_bytes: int) -> bool:
        """Judged as a whole, and by what of both is still to come. part_bytes: of the file that are here."""
        return (
            offer.sha256 not in self._failed
            and is_worth(offer.size_bytes, size_bytes)
            and is_worth(offer.size_bytes - _have_bytes(offer, patches), size_bytes - part_bytes)
        )

    async def _bring(self, offer: PatchOffer, patches: Shelf) -> None:
        await asyncio.to_thread(patches.keep_files, {offer.sha256})  # one comes in at a time
        if patches.has(offer.sha256):
            return
        had_bytes, traffic_bytes = _have_bytes(offer, patches), self._uplink.traffic_bytes["fetch"]
        try:
            await self._supply.fetch(file_target(offer.sha256), patches, offer.sha256, offer.size_bytes)
        except Unavailable as error:
            has_grown = _have_bytes(offer, patches) > had_bytes
            if not has_grown and self._uplink.traffic_bytes["fetch"] - traffic_bytes >= offer.size_bytes:
                raise Corrupt(f"what came is not the patch that was offered: {error}") from error
            self._fruitless[offer.sha256] = 0 if has_grown else self._fruitless[offer.sha256] + 1
            if self._fruitless[offer.sha256] < _MOST_FRUITLESS:
                raise _StillToCome(str(error)) from error
            raise

    def _give_up(self, offer: PatchOffer, patches: Shelf) -> None:
        if len(self._failed) >= _MOST_FAILED:
            self._failed.clear()
            self._fruitless.clear()
        self._failed.add(offer.sha256)
        patches.remove(offer.sha256)

    def _base(self, target: str, shelf: Shelf, sha256: str) -> Base | None:
        """Of the kept versions of the same bundle, the newest's file that does what the wanted one is for."""
        if target.startswith("bundles/"):
            return next((_as_base(kept) for kept in _kept(shelf, target.split("/")[1])), None)
        if not shelf.has(self._manifest_sha256):
            return None
        manifest = parse_manifest(shelf.read(self._manifest_sha256))
        wanted = {role for role, file in _roles(manifest).items() if file == sha256}
        for kept in _kept(shelf, manifest.name):
            for role, file in _roles(kept.manifest).items():
                if role in wanted and shelf.has(file):
                    return Base(file, partial(shelf.opened, file))
        return None


class _StillToCome(Unavailable):
    """The link broke, or the node that carries the patch does not have all of it yet: worth waiting for."""


def _make(shelf: Shelf, patches: Shelf, offer: PatchOffer, base: Base | None, sha256: str, size_bytes: int) -> None:
    """What is wanted, onto the shelf, and the patch off its own. Raises Corrupt if the patch does not make it."""
    shelf.discard_part(sha256)  # of a try that was killed, or of the file itself
    with patches.opened(offer.sha256) as patch, base.open() if base else nullcontext() as old:
        try:
            apply_patch(patch, old, partial(shelf.append_part, sha256), result_bytes=size_bytes)
            shelf.finish_part(sha256)
        except BaseException:
            shelf.discard_part(sha256)
            raise
    with suppress(EdgeloopError):  # the file is there; the next patch clears what was left
        patches.remove(offer.sha256)


def _have_bytes(offer: PatchOffer, patches: Shelf) -> int:
    if patches.has(offer.sha256):
        return offer.size_bytes
    return min(offer.size_bytes, patches.part_size_bytes(offer.sha256))


def _kept(shelf: Shelf, name: str) -> Iterator[Bundle]:
    """The kept versions of a bundle, newest first."""
    for ref in reversed(shelf.refs()):
        if ref.name == name:
            yield shelf.open(ref)


def _as_base(kept: Bundle) -> Base:
    return Base(digest(kept.manifest_bytes), lambda: nullcontext(io.BytesIO(kept.manifest_bytes)))


def _roles(manifest: Manifest) -> dict[str, str]:
    """What a bundle's files are for, as what is the same from version to version."""
    golden, reference, output = manifest.golden, manifest.reference, manifest.output
    found = {"golden inputs": golden.inputs, "golden outputs": golden.outputs}
    if reference is not None:
        found |= {"class means": reference.class_means, "feature std": reference.feature_std}
    if isinstance(output, Embedding) and output.enrolled is not None:
        found["enrolled"] = output.enrolled.vectors
    for variant in manifest.variants:
        found.setdefault(f"{variant.engine} {variant.precision}", variant.file)
    return found
