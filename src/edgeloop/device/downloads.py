"""What trying a version takes, brought onto the shelf and verified.

Rules kept here: all downloads of an update have one time together, also over restarts; the time between tries, while
the hub is away, does not count, nor what waits for the day's bytes; a file is fetched only when it is needed, and once
more where the disk has damaged it.
Neighbours: `update` says when; `supply`, `metered` and `patched` bring the bytes.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec

from edgeloop.bundle.archive import MAX_MANIFEST_BYTES, Bundle, digest, parse_manifest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Corrupt, InvalidInput, Refused
from edgeloop.contracts.manifest import EngineName, Manifest, Variant
from edgeloop.contracts.messages import Assignment
from edgeloop.contracts.names import file_target, manifest_target
from edgeloop.contracts.states import UpdateState
from edgeloop.device.config import Patience
from edgeloop.device.deadline import within
from edgeloop.device.progress import Progress
from edgeloop.device.state import Versions
from edgeloop.runtime.candidates import candidates

T = TypeVar("T")


class Supply(Protocol):
    """Where bundles come from: signed words through `assignment` and `check`, bytes through `fetch`."""

    @property
    def waited_s(self) -> float:
        """For how long `fetch` has waited for leave to begin, so far: that is no time of an update."""
        ...

    async def assignment(self) -> Assignment | None:
        """What the director wants of this device. Raises Refused or Unavailable."""
        ...

    async def check(self, target: str, sha256: str) -> int:
        """The size in bytes of a target that the targets key signed with this hash. Raises Refused."""
        ...

    def is_at_hand(self, target: str) -> bool:
        """Whether `fetch` needs to ask nobody for it."""
        ...

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """Bring a target onto the shelf, taking up a broken-off download. Raises Unavailable or Corrupt."""
        ...


class Downloads:
    """One device's downloads. engines: those that it has."""

    def __init__(
        self,
        supply: Supply,
        shelf: Shelf,
        versions: Versions,
        progress: Progress,
        *,
        engines: Iterable[EngineName],
        patience: Patience,
    ) -> None:
        self._supply = supply
        self._shelf = shelf
        self._versions = versions
        self._progress = progress
        self._engines = tuple(engines)
        self._patience = patience

    async def bring(self, assignment: Assignment, *, tries: int) -> Bundle:
        """The bundle, with everything that trying its first candidate takes. Raises Refused or Corrupt, or Unavailable
        when it must be tried again later."""
        bundle, needed = await self._within_time(assignment, partial(self._bundle, assignment), tries=tries)
        self._progress.note(assignment, UpdateState.VERIFYING, tries=tries)
        await self._make_whole(assignment, bundle, needed, tries=tries)
        return bundle

    async def bring_variant(self, assignment: Assignment, bundle: Bundle, variant: Variant, *, tries: int) -> bool:
        """One candidate's file, where it is not here, or is damaged; whether it was brought. Raises as `bring`."""
        return await self._make_whole(assignment, bundle, (variant.file,), tries=tries)

    async def _make_whole(self, assignment: Assignment, bundle: Bundle, files: Iterable[str], *, tries: int) -> bool:
        """Bring what is not here as it was signed; whether there was any. What the disk damaged is not left there: the
        files that versions share stay on the shelf, and each later update would fail of them."""
        lacking = await self._lacking(files)
        if not lacking:
            return False
        # In place of what is there, and not after it was removed: a version at work may run from it, and the disk may
        # only have failed once.
        await self._within_time(assignment, partial(self._files, bundle.manifest, lacking, anew=True), tries=tries)
        damaged = await self._lacking(lacking)
        if damaged:
            raise Corrupt(f"file {damaged[0][:12]} was fetched and is damaged on the disk already; check the disk")
        return True

    async def _lacking(self, files: Iterable[str]) -> list[str]:
        """Those of them that the disk does not give back as they were signed."""
        try:
            async with asyncio.timeout(self._patience.verify_s):
                return [one for one in files if not await asyncio.to_thread(self._shelf.is_sound, one)]
        except TimeoutError as error:
            raise Refused(f"verifying it took longer than {self._patience.verify_s:.0f} s; check the disk") from error

    async def _within_time(
        self, assignment: Assignment, work: Callable[[], Coroutine[Any, Any, T]], *, tries: int
    ) -> T:
        """What work comes to. Raises Refused when all downloads of the update have taken too long."""
        limit_s = self._patience.download_s
        update = self._progress.note(assignment, UpdateState.DOWNLOADING, tries=tries)
        began_s = time.monotonic() - self._supply.waited_s - update.download_s

        def total_s() -> float:
            return time.monotonic() - self._supply.waited_s - began_s

        def count() -> None:
            self._versions.count(msgspec.structs.replace(update, download_s=total_s()))

        counting = asyncio.create_task(self._repeat(count))
        try:
            return await within(limit_s, total_s, work())
        except TimeoutError as error:
            raise Refused(f"downloading it took longer than {limit_s:.0f} s") from error
        finally:
            counting.cancel()
            count()

    async def _repeat(self, count: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(self._patience.note_every_s)
            count()

    async def _bundle(self, assignment: Assignment) -> tuple[Bundle, Sequence[str]]:
        """Manifest, golden samples, reference and the first candidate's file; other candidates only when needed."""
        manifest_bytes = await self._manifest(assignment)
        try:
            manifest = parse_manifest(manifest_bytes)
        except InvalidInput as error:  # a field that only a newer edgeloop knows
            raise Refused(f"the edgeloop here cannot read what describes {assignment.bundle}: {error}") from error
        if manifest.ref != assignment.ref:
            raise Refused(f"the manifest is of {manifest.ref}, assigned is {assignment.bundle}")
        able = candidates(manifest, self._engines)
        if not able:
            offered = ", ".join(f"{v.engine} {v.precision}" for v in manifest.variants)
            raise Refused(
                f"no variant runs here: it offers {offered}; here there is {', '.join(self._engines) or 'no engine'}"
            )
        needed = [*manifest.shared_files, able[0].file]
        await self._files(manifest, needed)
        return Bundle(manifest, self._shelf, manifest_bytes=manifest_bytes), needed

    async def _manifest(self, assignment: Assignment) -> bytes:
        target = manifest_target(assignment.ref)
        sha256 = assignment.manifest_sha256
        size_bytes = await self._supply.check(target, sha256)
        if size_bytes > MAX_MANIFEST_BYTES:
            raise Refused(f"the manifest is {size_bytes:,} bytes; at most {MAX_MANIFEST_BYTES:,}")
        if not self._shelf.is_sound(sha256):
            if self._shelf.has(sha256):  # damaged; a download that was broken off stays, and is gone on with
                self._shelf.remove(sha256)
            await self._supply.fetch(target, self._shelf, sha256, size_bytes)
        data = self._shelf.read(sha256)
        if digest(data) != sha256:
            raise Corrupt("the manifest on disk is damaged")
        return data

    async def _files(self, manifest: Manifest, files: Iterable[str], *, anew: bool = False) -> None:
        """Those of them that are not here yet; all of them, if anew."""
        sizes_bytes = {entry.sha256: entry.size_bytes for entry in manifest.files}
        for sha256 in files:
            if anew or not self._shelf.has(sha256):
                await self._file(sha256, size_bytes=sizes_bytes[sha256])

    async def _file(self, sha256: str, *, size_bytes: int) -> None:
        signed_bytes = await self._supply.check(file_target(sha256), sha256)
        if signed_bytes != size_bytes:
            raise Refused(f"file {sha256[:12]} is signed with {signed_bytes:,} bytes, its manifest says {size_bytes:,}")
        await self._supply.fetch(file_target(sha256), self._shelf, sha256, size_bytes)
