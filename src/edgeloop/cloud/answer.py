"""The models that the cloud's own predictions come from: what is published, from the registry and the blobs.

Neighbour: `runtime.answerer` loads them and answers the `infer` verb.
"""

from edgeloop.cloud.store import registry
from edgeloop.cloud.store.blobs import Blobs
from edgeloop.cloud.store.database import Database
from edgeloop.contracts.names import BundleRef


class PublishedModels:
    """Implements runtime.answerer.Models."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    async def find(self, name: str, version: str | None) -> BundleRef:
        """See Models.find."""
        if version is not None:
            return BundleRef(name, version)
        newest = await self._database.read(lambda connection: registry.newest_bundle(connection, name))
        return BundleRef(newest.name, newest.version)

    async def manifest(self, ref: BundleRef) -> bytes:
        """See Models.manifest."""
        return await self._database.read(lambda connection: registry.manifest_bytes(connection, ref))

    async def file(self, sha256: str) -> bytes:
        """See Models.file."""
        return await self._blobs.get(registry.file_key(sha256))
