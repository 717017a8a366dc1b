"""Bytes by key: bundle files, samples, job artifacts; in a folder or in memory, through obstore."""

import asyncio
import os
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore

from edgeloop.bundle.durable import fsync_folder
from edgeloop.contracts.errors import NotFound, Unavailable


class Blobs:
    """A store of blobs. On a folder, a put is on the disk when it returns."""

    def __init__(self, store: ObjectStore, *, folder: Path | None = None) -> None:
        self._store = store
        self._folder = folder

    async def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`; the same key again replaces it. Raises Unavailable if it cannot be kept."""
        try:
            await obstore.put_async(self._store, key, data)
        except (BaseError, OSError) as error:
            raise Unavailable(f"cannot keep blob {key}: {error}") from error
        if self._folder is not None:
            await asyncio.to_thread(_settle, self._folder / key)

    async def get(self, key: str, *, start: int | None = None, stop: int | None = None) -> bytes:
        """The whole blob, or its bytes from start (inclusive) to stop (exclusive). Raises NotFound."""
        try:
            if start is not None and stop is not None:
                return bytes(await obstore.get_range_async(self._store, key, start=start, end=stop))
            answer = await obstore.get_async(self._store, key)
            return bytes(await answer.bytes_async())
        except FileNotFoundError as error:
            raise NotFound(f"there is no blob {key}") from error
        except (BaseError, OSError) as error:
            raise Unavailable(f"cannot read blob {key}: {error}") from error

    async def size_bytes(self, key: str) -> int | None:
        """How large it is, None if it is not there."""
        try:
            return int((await obstore.head_async(self._store, key))["size"])
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise Unavailable(f"cannot look for blob {key}: {error}") from error


def folder_blobs(folder: Path) -> Blobs:
    """Blobs in a folder, which is made if it is missing."""
    return Blobs(LocalStore(folder, mkdir=True), folder=folder)


def memory_blobs() -> Blobs:
    """Blobs that go with the process."""
    return Blobs(MemoryStore())


def _settle(path: Path) -> None:
    """obstore renames without fsync; what is acknowledged must survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    for folder in (path.parent, path.parent.parent):
        fsync_folder(folder)
