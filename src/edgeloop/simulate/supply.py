"""How a simulated device gets what it is assigned: the same files in the same order as a real one, by two ways.

`Checked` is the device's own code, python-tuf and the shelf on disk included: some 40 ms of processor time and a dozen
files for each device, which a real fleet spends on ten thousand processors and one machine cannot. `Unchecked` asks the
hub for just what the other way asks for, and holds the bundle's files to their hashes, but takes the metadata's word.
To the server both are alike: a test counts the requests of both.
"""

import asyncio
import json
import shutil
from pathlib import Path

from edgeloop.bundle.archive import digest, parse_manifest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.codec import from_json
from edgeloop.contracts.errors import Corrupt, Unavailable
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.messages import MAX_ALONG_BYTES, Assignment, Held, TrustRequest
from edgeloop.contracts.names import file_target, manifest_target
from edgeloop.device.supply import HubSupply
from edgeloop.transport.membership import Membership
from edgeloop.transport.packed import version_of
from edgeloop.transport.uplink import Uplink

_MOST_BYTES = 64 * 1024 * 1024


class Checked:
    """The device's own way, in a folder that is emptied after it."""

    def __init__(self, uplink: Uplink, member: Membership, folder: Path) -> None:
        self._supply = HubSupply(uplink, member, folder / "trust")
        self._folder = folder

    async def assignment(self) -> Assignment | None:
        """What this device is to run. Raises what the device's own code raises."""
        return await self._supply.assignment()

    async def fetch(self, assignment: Assignment) -> None:
        """Its manifest and the files that a device needs, each as signed."""
        shelf = Shelf(self._folder / "bundles")
        try:
            target = manifest_target(assignment.ref)
            await self._one(shelf, target, assignment.manifest_sha256)
            manifest = parse_manifest(await asyncio.to_thread(shelf.read, assignment.manifest_sha256))
            for sha256 in needed(manifest):
                await self._one(shelf, file_target(sha256), sha256)
        finally:
            await asyncio.to_thread(shutil.rmtree, shelf.folder, ignore_errors=True)

    async def _one(self, shelf: Shelf, target: str, sha256: str) -> None:
        size_bytes = await self._supply.check(target, sha256)
        await self._supply.fetch(target, shelf, sha256, size_bytes)


class Unchecked:
    """The same requests, without signatures and without a disk. What came of TUF is remembered as it does."""

    def __init__(self, uplink: Uplink, member: Membership) -> None:
        self._uplink = uplink
        self._place = f"director/{member.device_id}"
        roots = {"images": member.images_root, self._place: member.director_root}
        self._kept = {place: {"root": data} for place, data in roots.items()}
        self._along: dict[str, bytes] = {}

    async def assignment(self) -> Assignment | None:
        """What this device is to run, in the cloud's word. Raises Unavailable if that did not come."""
        held = {
            place: Held(**{role: version_of(data) for role, data in files.items()})
            for place, files in self._kept.items()
        }
        reply = await self._uplink.trust(TrustRequest(held=held, along_bytes=MAX_ALONG_BYTES))
        for path, data in sorted(reply.metadata.items()):
            place, _, file = path.partition("/metadata/")
            self._kept[place][file.split(".")[-2]] = data
        self._along = reply.along
        if self._place not in reply.whole:
            raise Unavailable(f"what is signed of {self._place} did not come")
        entry = json.loads(self._kept[self._place]["targets"])["signed"]["targets"].get("assignment")
        if entry is None:
            return None
        text = str(entry["custom"]["assignment"])
        return from_json(text.encode(), Assignment, what="the director's assignment")

    async def fetch(self, assignment: Assignment) -> None:
        """See Checked.fetch. Raises Corrupt if a file is not what it is called."""
        target = manifest_target(assignment.ref)
        manifest = parse_manifest(await self._one(target, assignment.manifest_sha256))
        for sha256 in needed(manifest):
            await self._one(file_target(sha256), sha256)

    async def _one(self, target: str, sha256: str) -> bytes:
        path = f"targets/{target}"
        data = self._along.pop(path, None) or await self._uplink.fetch(path, max_bytes=_MOST_BYTES)
        if digest(data) != sha256:
            raise Corrupt(f"{target} came with another hash")
        return data


def needed(manifest: Manifest) -> list[str]:
    """The files that a device fetches: golden samples, drift reference, and one variant."""
    shared = [manifest.golden.inputs, manifest.golden.outputs]
    if manifest.reference is not None:
        shared += [manifest.reference.class_means, manifest.reference.feature_std]
    return [*dict.fromkeys([*shared, manifest.variants[0].file])]
