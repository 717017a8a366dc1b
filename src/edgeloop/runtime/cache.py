"""Do not compute twice: answers of one bundle version, by what they were computed from.

First the exact content, by a fast hash (xxHash's XXH3, 128 bits); then, of images, a thumbnail that lies within the
manifest's bound of one whose answer was computed and was sure enough. An answer is never taken from an answer that was
taken itself, so that a scene that changes slowly is computed anew as soon as it has left the bound. Bounded in entries
and in age.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.manifest import MOST_ENTRIES, Manifest, Modality
from edgeloop.contracts.preprocess import Resize
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.output.port import Answer

_FULL_RANGE = 255
_CELLS = 256


class CacheCounters(msgspec.Struct):
    """How often an answer was found for the same content, for a near one, and not at all."""

    exact: int = 0
    near: int = 0
    computed: int = 0


@dataclass(frozen=True)
class Kept:
    """An answer, and what it was decided by where smoothing needs that."""

    answer: Answer
    basis: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Held:
    """What `find` came to: the input as read so far, what to keep its answer by, and the answer if there is one."""

    source: Source
    digest: bytes
    kept: Kept | None
    small: NDArray[np.uint8] | None = None
    shape: tuple[int, ...] = ()


class ResultCache:
    """Answers of one bundle. Not thread-safe, like the predictor that it belongs to.

    now_s: a clock that never goes back. Raises InvalidInput if the manifest asks for more than MOST_ENTRIES.
    """

    def __init__(self, manifest: Manifest, *, now_s: Callable[[], float] = time.monotonic) -> None:
        if manifest.reuse.entries > MOST_ENTRIES:
            raise InvalidInput(
                f"{manifest.ref} asks for {manifest.reuse.entries:,} answers to be kept; at most {MOST_ENTRIES:,} are"
            )
        self.counters = CacheCounters()
        self._reuse = manifest.reuse
        is_image = manifest.input.modality is Modality.IMAGE
        self._near = round(manifest.reuse.near * _FULL_RANGE) if is_image else 0
        self._only_arrays = _decodes_in_part(manifest)
        self._now_s = now_s
        self._kept: OrderedDict[bytes, tuple[float, int, Kept]] = OrderedDict()
        self._small = np.zeros((self._reuse.entries, _CELLS), np.int16)
        self._small_of: list[bytes | None] = [None] * self._reuse.entries
        self._shape_of: list[tuple[int, ...]] = [()] * self._reuse.entries

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, source: Source) -> Held:
        """The answer to this input, if one is kept. Raises what reading the input raises."""
        content = _content(source)
        digest = _digest(content)
        self._forget_old()
        found = self._kept.get(digest)
        if found is not None:
            self._kept.move_to_end(digest)
            self.counters.exact += 1
            return Held(content, digest, found[2])
        if not self._near or (self._only_arrays and isinstance(content, bytes)):
            return Held(content, digest, None)
        from edgeloop.runtime.input.images import as_image  # OpenCV: not for those who compare content alone
        from edgeloop.runtime.input.thumbnail import thumbnail

        pixels = as_image(content)
        small = thumbnail(pixels)
        near = self._nearest(small, pixels.shape)
        if near is None:
            return Held(pixels, digest, None, small, pixels.shape)
        if near.answer.margin < self._reuse.sure:
            # Nor is the answer to this one kept for what is near: where answers flicker, some are sure by chance.
            return Held(pixels, digest, None)
        self.counters.near += 1
        return Held(pixels, digest, near, small, pixels.shape)

    def keep(self, held: Held, kept: Kept) -> None:
        """Remember a computed answer; the one that was not asked for longest leaves when it is full."""
        self.counters.computed += 1
        if len(self._kept) >= self._reuse.entries:
            _, (_, slot, _) = self._kept.popitem(last=False)
            self._small_of[slot] = None
        slot = self._small_of.index(None)
        self._small_of[slot] = held.digest
        self._shape_of[slot] = ()  # what was there before must not be found by its thumbnail any more
        if held.small is not None:
            self._small[slot] = held.small.reshape(-1)
            self._shape_of[slot] = held.shape
        self._kept[held.digest] = (self._now_s(), slot, kept)

    def clear(self) -> None:
        """Forget all answers."""
        self._kept.clear()
        self._small_of = [None] * self._reuse.entries

    def _nearest(self, small: NDArray[np.uint8], shape: tuple[int, ...]) -> Kept | None:
        """The answer to the nearest image of this shape, if no cell of its thumbnail differs by more than the bound."""
        if not self._kept:
            return None
        apart = np.abs(self._small - small.reshape(-1).astype(np.int16)).max(axis=1)
        for slot in np.argsort(apart, kind="stable"):
            if apart[slot] > self._near:
                return None
            digest = self._small_of[slot]
            if digest is not None and self._shape_of[slot] == shape:
                self._kept.move_to_end(digest)
                return self._kept[digest][2]
        return None

    def _forget_old(self) -> None:
        oldest_s = self._now_s() - self._reuse.max_age_s
        for digest in [digest for digest, (at_s, _, _) in self._kept.items() if at_s < oldest_s]:
            _, slot, _ = self._kept.pop(digest)
            self._small_of[slot] = None


def _decodes_in_part(manifest: Manifest) -> bool:
    """Whether files are decoded at a part of their size: cheaper to compute than to decode whole and compare."""
    first = manifest.preprocess[0] if manifest.preprocess else None
    return isinstance(first, Resize) and first.reduced_decode


def _content(source: Source) -> bytes | NDArray[np.generic]:
    """Bytes or an array: a path is read."""
    if isinstance(source, bytes | np.ndarray):
        return source
    path = Path(os.fspath(source))
    if not path.is_file():
        raise NotFound(f"no input at {path}")
    return path.read_bytes()


def _digest(content: bytes | NDArray[np.generic]) -> bytes:
    if isinstance(content, bytes):
        return xxhash.xxh3_128_digest(content)
    whole = np.ascontiguousarray(content)
    shape = f"{whole.dtype.str}{whole.shape}".encode()
    return xxhash.xxh3_128_digest(whole.data) + shape
