"""The samples' bytes among the blobs, sealed where the cloud has a key for it."""

import asyncio
from collections.abc import Sequence

from edgeloop.cloud.store.blobs import Blobs
from edgeloop.contracts.errors import EdgeloopError, NotFound, Unavailable
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

    async def remove(self, keys: Sequence[str], *, timeout_s: float) -> tuple[list[str], str]:
        """Let go of samples, however they are kept, all at once; those that are gone already count as removed.

        Returns which are gone, and why the first of the others is not (empty if all are): it may be gone or not.
        """
        tasks = [asyncio.ensure_future(self._blobs.remove([key, _sealed(key)])) for key in keys]
        if not tasks:
            return [], ""
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in late:
            task.cancel()
        gone, why = [], ""
        for key, ended in zip(keys, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
            if ended is None:
                gone.append(key)
            elif isinstance(ended, asyncio.CancelledError):
                why = why or f"removing {key} takes longer than {timeout_s:g} s"
            elif isinstance(ended, EdgeloopError):
                why = why or str(ended)
            else:
                raise ended
        return gone, why

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
