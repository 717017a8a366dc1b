"""Bytes by key: bundle files, samples, job artifacts; in a folder, in memory or in an S3 bucket, through obstore."""

import asyncio
import os
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, MemoryStore, ObjectStore, S3Store

from edgeloop.bundle.durable import fsync_folder, make_folder, translated
from edgeloop.contracts.errors import InvalidInput, NotFound, Unavailable
from edgeloop.contracts.names import is_loopback

# obstore lists no name that ends so: they are what it writes to itself, and so do we.
_HALF_WRITTEN = re.compile(r".+#[0-9]{1,20}")
_PART_BYTES = 8 * 1024 * 1024
"""Larger blobs go up in parts of this size, several at once, and are read in pieces of it."""


@dataclass(frozen=True)
class Listed:
    """A blob that is kept. kept_at_s: since when, seconds since 1970."""

    key: str
    size_bytes: int
    kept_at_s: float


class Blobs:
    """A store of blobs. What was put survives a power cut when `put` returns."""

    def __init__(self, store: ObjectStore, *, folder: Path | None = None) -> None:
        self._store = store
        self._folder = folder

    async def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`; the same key again replaces it. Raises Unavailable if it cannot be kept.

        At no instant is there less than there was: what was acknowledged once is not put at risk by a repeat.
        """
        if self._folder is not None:
            await asyncio.to_thread(_put, self._folder, key, data)
            return
        try:
            await obstore.put_async(self._store, key, data, chunk_size=_PART_BYTES)
        except (BaseError, OSError) as error:
            raise Unavailable(f"cannot keep blob {key}: {_cause(error)}") from error

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
            raise Unavailable(f"cannot read blob {key}: {_cause(error)}") from error

    async def pieces(self, key: str) -> AsyncIterator[bytes]:
        """The whole blob, a piece at a time. Raises NotFound."""
        size_bytes = await self.size_bytes(key)
        if size_bytes is None:
            raise NotFound(f"there is no blob {key}")
        for start in range(0, size_bytes, _PART_BYTES):
            yield await self.get(key, start=start, stop=min(start + _PART_BYTES, size_bytes))

    async def size_bytes(self, key: str) -> int | None:
        """How large it is, None if it is not there."""
        try:
            return int((await obstore.head_async(self._store, key))["size"])
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise Unavailable(f"cannot look for blob {key}: {_cause(error)}") from error

    async def listed(self, prefix: str) -> list[Listed]:
        """The blobs in a folder of keys and below it, oldest first. Raises Unavailable."""
        found: list[Listed] = []
        try:
            async for batch in obstore.list(self._store, prefix):
                found += [Listed(one["path"], one["size"], one["last_modified"].timestamp()) for one in batch]
        except FileNotFoundError:
            return []
        except (BaseError, OSError) as error:
            raise Unavailable(f"cannot list blobs at {prefix}: {_cause(error)}") from error
        return sorted(found, key=lambda one: (one.kept_at_s, one.key))

    async def remove(self, keys: Sequence[str]) -> None:
        """Let go of these blobs; those that are gone already count as removed. Raises Unavailable."""
        for key in keys:
            try:
                await obstore.delete_async(self._store, key)
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise Unavailable(f"cannot remove blob {key}: {_cause(error)}") from error

    def sweep(self) -> int:
        """Remove from a folder what writers that were killed left half written; returns how many. Only while nobody
        else writes there. Raises Unavailable.
        """
        count = 0
        for top, _, names in os.walk(self._folder) if self._folder is not None else ():
            for name in filter(_HALF_WRITTEN.fullmatch, names):
                path = Path(top, name)
                with translated(path, doing="write"):
                    path.unlink(missing_ok=True)
                count += 1
        return count

    async def check(self) -> None:
        """Raise Unavailable unless the store answers: the bucket exists, and these credentials may list it."""
        try:
            await obstore.list_with_delimiter_async(self._store)
        except (BaseError, OSError) as error:
            raise Unavailable(
                f"the place for blobs does not answer: {_cause(error)}. Make the bucket, and give AWS_ENDPOINT (for "
                "others than Amazon), AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; the key must be allowed "
                "to list, get, put and delete"
            ) from error


def open_blobs(folder: Path, url: str | None) -> Blobs:
    """The bucket at `url`, or without one the folder. Raises InvalidInput if the address is none."""
    return folder_blobs(folder) if url is None else bucket_blobs(url)


def folder_blobs(folder: Path) -> Blobs:
    """Blobs in a folder, which is made if it is missing. Raises OSError if it cannot be."""
    make_folder(folder.absolute())
    return Blobs(LocalStore(folder), folder=folder)


def memory_blobs() -> Blobs:
    """Blobs that go with the process."""
    return Blobs(MemoryStore())


def bucket_blobs(url: str) -> Blobs:
    """Blobs in a bucket: s3://BUCKET/PREFIX. Endpoint, region and credentials come from the environment, as obstore
    reads it (AWS_ENDPOINT and so on). Without TLS only on loopback. Raises InvalidInput.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.hostname:
        raise InvalidInput(f"{url!r} is no place for blobs; expected s3://BUCKET or s3://BUCKET/PREFIX")
    endpoint = os.environ.get("AWS_ENDPOINT") or os.environ.get("AWS_ENDPOINT_URL") or ""
    is_plain = urlsplit(endpoint).scheme == "http"
    if is_plain and not is_loopback(urlsplit(endpoint).hostname or ""):
        raise InvalidInput(f"the bucket's endpoint {endpoint} is not encrypted; give its https:// address")
    try:
        store = S3Store.from_url(
            url,
            client_options={"allow_http": is_plain, "connect_timeout": "5s", "timeout": "60s"},
            retry_config={"max_retries": 3},
        )
    except (BaseError, ValueError) as error:
        raise InvalidInput(f"cannot use {url} for blobs: {_cause(error)}") from error
    return Blobs(store)


def _cause(error: Exception) -> str:
    """Without obstore's pages of debugging."""
    return str(error).partition("\n\nDebug source:")[0].strip()


def _put(top: Path, key: str, data: bytes) -> None:
    """Onto the disk, with fsync before the rename: obstore renames first, over a blob that may be whole and settled."""
    path = top / key
    try:
        if not _holds(path, data):
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_beside(path, data)
        # Also of a blob that is there: who put it may not have come so far.
        inner = path.parent.relative_to(top)
        for folder in (inner, *inner.parents):
            fsync_folder(top / folder)
    except OSError as error:
        raise Unavailable(f"cannot keep blob {key}: {error.strerror or error}") from error


def _holds(path: Path, data: bytes) -> bool:
    """Whether the whole blob is there already; if so, it counts as kept now."""
    try:
        if path.stat().st_size != len(data) or path.read_bytes() != data:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _write_beside(path: Path, data: bytes) -> None:
    beside = path.with_name(f"{path.name}#{secrets.randbelow(10**9)}")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
