"""Take a bundle that was signed elsewhere: every check that the server can make without the targets key."""

from datetime import UTC, datetime

import sqlalchemy as sa

from edgeloop.bundle.archive import digest, parse_manifest, require_free_name
from edgeloop.cloud.hub import Stores
from edgeloop.cloud.repository import check_targets
from edgeloop.cloud.store import registry, roots
from edgeloop.contracts.api import BundleView, PublishRequest
from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.names import file_target, manifest_target


async def publish(stores: Stores, request: PublishRequest, *, now_s: float) -> BundleView:
    """List a bundle. Raises Refused if it is not signed or not new, InvalidInput if a file was not handed over or no
    bundle may be named so."""
    manifest = parse_manifest(request.manifest)
    require_free_name(manifest.name)
    current = await stores.database.read(registry.newest_targets)
    root, _ = (await stores.database.read(roots.read_roots)).newest()
    targets = check_targets(request.targets_metadata, root=root, current=current.metadata)
    if targets.is_expired(datetime.fromtimestamp(now_s, UTC)):
        raise Refused(f"the targets metadata expired on {targets.expires:%Y-%m-%d}; sign it anew and publish again")
    signed = {path: (target.hashes.get("sha256"), target.length) for path, target in targets.targets.items()}
    for path, (sha256, size_bytes) in _needed(manifest, request.manifest).items():
        if signed.get(path) != (sha256, size_bytes):
            raise Refused(
                f"the targets metadata does not sign {path} with hash {sha256[:12]} and {size_bytes:,} bytes; "
                "publish again"
            )
    await _check_files(stores, manifest)

    def operation(connection: sa.Connection) -> BundleView:
        signed_as = (targets.version, request.targets_metadata)
        return registry.add_bundle(connection, manifest, request.manifest, signed_as, now_s=now_s)

    return await stores.database.write(operation)


async def take_file(stores: Stores, sha256: str, data: bytes) -> None:
    """Keep a bundle's file ahead of its publication. Raises InvalidInput if it is not what it is called."""
    if digest(data) != sha256:
        raise InvalidInput(f"the file has hash {digest(data)[:12]}, it was sent as {sha256[:12]}; send it again")
    await stores.blobs.put(registry.file_key(sha256), data)


async def missing_files(stores: Stores, sha256s: list[str]) -> list[str]:
    """Those that were not handed over yet."""
    return [one for one in sha256s if await stores.blobs.size_bytes(registry.file_key(one)) is None]


async def _check_files(stores: Stores, manifest: Manifest) -> None:
    missing = await missing_files(stores, [entry.sha256 for entry in manifest.files])
    if missing:
        raise InvalidInput(f"{manifest.ref}: {len(missing)} files were not handed over, first {missing[0][:12]}")


def _needed(manifest: Manifest, manifest_bytes: bytes) -> dict[str, tuple[str, int]]:
    """Hash and size by target path."""
    files = {file_target(entry.sha256): (entry.sha256, entry.size_bytes) for entry in manifest.files}
    return {manifest_target(manifest.ref): (digest(manifest_bytes), len(manifest_bytes))} | files
