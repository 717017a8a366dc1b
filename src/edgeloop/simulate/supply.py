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
from typing import Any

from edgeloop.bundle.archive import digest, parse_manifest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.codec import from_json
from edgeloop.contracts.errors import Corrupt, NotFound
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.messages import Assignment
from edgeloop.contracts.names import file_target, manifest_target
from edgeloop.device.supply import HubSupply
from edgeloop.transport.membership import Membership
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
    """The same requests, without signatures and without a disk. What was fetched of TUF is remembered as it does."""

    def __init__(self, uplink: Uplink, member: Membership) -> None:
        self._uplink = uplink
        self._device_id = member.device_id
        self._roots: dict[str, int] = {}
        self._kept: dict[str, tuple[int, bytes]] = {}

    async def assignment(self) -> Assignment | None:
        """What this device is to run, in the cloud's word."""
        targets = await self._targets(f"director/{self._device_id}")
        entry = json.loads(targets)["signed"]["targets"].get("assignment")
        if entry is None:
            return None
        text = str(entry["custom"]["assignment"])
        await self._targets("images")
        return from_json(text.encode(), Assignment, what="the director's assignment")

    async def fetch(self, assignment: Assignment) -> None:
        """See Checked.fetch. Raises Corrupt if a file is not what it is called."""
        target = manifest_target(assignment.ref)
        manifest = parse_manifest(await self._one(target, assignment.manifest_sha256))
        for sha256 in needed(manifest):
            await self._one(file_target(sha256), sha256)

    async def _one(self, target: str, sha256: str) -> bytes:
        data = await self._uplink.fetch(f"targets/{target}", max_bytes=_MOST_BYTES)
        if digest(data) != sha256:
            raise Corrupt(f"{target} came with another hash")
        return data

    async def _targets(self, repository: str) -> bytes:
        """The newest targets metadata. Source: TUF specification 1.0, 5.3 to 5.6, the requests of it."""
        base = f"{repository}/metadata"
        await self._newest_root(base)
        timestamp = _signed(await self._metadata(f"{base}/timestamp.json"))
        snapshot = await self._version_of(base, "snapshot", timestamp["meta"]["snapshot.json"]["version"])
        return await self._version_of(base, "targets", _signed(snapshot)["meta"]["targets.json"]["version"])

    async def _newest_root(self, base: str) -> None:
        version = self._roots.get(base, 1)
        try:
            while True:
                await self._metadata(f"{base}/{version + 1}.root.json")
                version += 1
        except NotFound:
            self._roots[base] = version

    async def _version_of(self, base: str, role: str, version: int) -> bytes:
        path = f"{base}/{role}"
        kept, data = self._kept.get(path, (0, b""))
        if kept != version:
            data = await self._metadata(f"{base}/{version}.{role}.json")
            self._kept[path] = (version, data)
        return data

    async def _metadata(self, path: str) -> bytes:
        return await self._uplink.fetch(path, max_bytes=_MOST_BYTES)


def needed(manifest: Manifest) -> list[str]:
    """The files that a device fetches: golden samples, drift reference, and one variant."""
    shared = [manifest.golden.inputs, manifest.golden.outputs]
    if manifest.reference is not None:
        shared += [manifest.reference.class_means, manifest.reference.feature_std]
    return [*dict.fromkeys([*shared, manifest.variants[0].file])]


def _signed(data: bytes) -> Any:
    return json.loads(data)["signed"]
