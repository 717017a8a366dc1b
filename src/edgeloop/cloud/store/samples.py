"""The samples' bytes among the blobs, sealed where the cloud has a key for it."""

from collections.abc import Sequence

from edgeloop.cloud.store.blobs import Blobs
from edgeloop.contracts.errors import NotFound, Unavailable
from edgeloop.transport.seal import Keyring


class SampleBytes:
    """Put and get by `inbox.sample_key`. A sealed sample lies beside that key: what is called by a hash has it."""

    def __init__(self, blobs: Blobs, keyring: Keyring | None = None) -> None:
        self._blobs = blobs
        self._keyring = keyring

    async def put(self, key: str, data: bytes) -> None:
        """Keep a sample; the same one again changes nothing. Raises Unavailable if it cannot be kept."""
        if self._keyring is None:
            await self._blobs.put(key, data)
        else:
            await self._blobs.put(_sealed(key), self._keyring.seal(data, context=key.encode()))

    async def remove(self, keys: Sequence[str]) -> None:
        """Let go of samples, however they are kept; those that are gone already count. Raises Unavailable."""
        await self._blobs.remove([name for key in keys for name in (key, _sealed(key))])

    async def get(self, key: str) -> bytes:
        """A sample's bytes. Raises NotFound, Unavailable without the key that it was sealed with, Corrupt."""
        try:
            sealed = await self._blobs.get(_sealed(key))
        except NotFound:
            return await self._blobs.get(key)  # from before the cloud had a key
        if self._keyring is None:
            raise Unavailable(f"{key} is sealed, and this cloud was started without --sample-key")
        return self._keyring.open(sealed, context=key.encode())


def _sealed(key: str) -> str:
    return f"{key}.sealed"
