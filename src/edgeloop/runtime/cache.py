"""Do not compute twice: answers of one bundle version, by what they were computed from.

The exact content, by a fast hash (xxHash's XXH3, 128 bits); and, of images, a thumbnail that lies within the
manifest's bound of one whose answer was computed and was sure enough. An answer is never taken from an answer that was
taken itself, so that a scene that changes slowly is computed anew as soon as it has left the bound. Bounded in entries
and in age.

To hash a frame takes as long as to make its thumbnail. So an array's content is looked for only where no sure answer is
near, and where an equal thumbnail is kept: equal pixels have equal ones.
"""

import math
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
    """How often an answer was found for the same content, for a near one, and not at all.

    The same pixels as an array count as near wherever near ones are taken and sure: they are not hashed then.
    """

    exact: int = 0
    near: int = 0
    computed: int = 0


@dataclass(frozen=True)
class Kept:
    """An answer, and what it was decided by where smoothing needs that."""

    answer: Answer
    basis: NDArray[np.float32] | None = None


class Held(msgspec.Struct, frozen=True):
    """What `find` came to: the input as read so far and the answer, if there is one; if not, what to keep one by.

    digest: of the content, empty if it was not needed. is_clear: whether the answer, once it is computed, may stand
    for what is near.
    """

    source: Source
    kept: Kept | None = None
    digest: bytes = b""
    small: NDArray[np.uint8] | None = None
    shape: tuple[int, ...] = ()
    is_clear: bool = False


class _Entry(msgspec.Struct, frozen=True):
    """A kept answer. shape: of the image; () where there is no thumbnail."""

    kept: Kept
    at_s: float
    digest: bytes
    shape: tuple[int, ...]
    is_clear: bool


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
        # By slot, which is the row of an entry's thumbnail; who was not asked for longest comes first.
        self._kept: OrderedDict[int, _Entry] = OrderedDict()
        self._slot_of: dict[bytes, int] = {}
        self._small = np.zeros((self._reuse.entries, _CELLS), np.uint8)
        self._used = 0
        self._fresh_until_s = math.inf

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, source: Source) -> Held:
        """The answer to this input, if one is kept. Raises what reading the input raises."""
        content = _content(source)
        self._forget_old()
        if self._near and isinstance(content, np.ndarray):
            return self._find_image(content, b"")
        digest = _digest(content)
        kept = self._exactly(digest)
        if kept is not None or not self._near or self._only_arrays:
            return Held(content, kept, digest)
        return self._find_image(content, digest)

    def keep(self, held: Held, kept: Kept) -> None:
        """Remember a computed answer; the one that was not asked for longest leaves when it is full."""
        self.counters.computed += 1
        if len(self._kept) >= self._reuse.entries:
            self._forget(next(iter(self._kept)))
        slot = next(slot for slot in range(self._reuse.entries) if slot not in self._kept)
        self._used = max(self._used, slot + 1)
        if held.small is not None:
            self._small[slot] = held.small
        digest = held.digest
        if not digest and not (held.is_clear and self._is_sure(kept)):
            digest = _digest(_content(held.source))
        if digest:
            self._slot_of[digest] = slot
        now_s = self._now_s()
        self._kept[slot] = _Entry(kept, now_s, digest, held.shape, held.is_clear)
        self._fresh_until_s = min(self._fresh_until_s, now_s + self._reuse.max_age_s)

    def clear(self) -> None:
        """Forget all answers."""
        self._kept.clear()
        self._slot_of.clear()

    def _find_image(self, content: bytes | NDArray[np.generic], digest: bytes) -> Held:
        """digest: of the content, empty as long as it is not known."""
        from edgeloop.runtime.input.images import see  # OpenCV: not for those who compare content alone
        from edgeloop.runtime.input.thumbnail import thumbnail

        seen = see(content)
        shape = seen.pixels.shape
        small = thumbnail(seen.pixels, is_bgr=seen.is_bgr).reshape(-1)
        near, is_twin = self._nearest(small, shape)
        if near is not None and self._is_sure(near):
            self.counters.near += 1
            return Held(content, near)
        if is_twin and not digest:  # no equal content without an equal thumbnail
            digest = _digest(content)
            kept = self._exactly(digest)
            if kept is not None:
                return Held(content, kept)
        source = seen.rgb_view() if isinstance(content, bytes) else content
        # Near to an unsure answer, it does not stand for others: where answers flicker, some are sure by chance.
        return Held(source, None, digest, small, shape, near is None)

    def _exactly(self, digest: bytes) -> Kept | None:
        slot = self._slot_of.get(digest)
        if slot is None:
            return None
        self._kept.move_to_end(slot)
        self.counters.exact += 1
        return self._kept[slot].kept

    def _nearest(self, small: NDArray[np.uint8], shape: tuple[int, ...]) -> tuple[Kept | None, bool]:
        """The answer to the nearest image of this shape, if no cell of its thumbnail differs by more than the bound.

        And whether any image that is kept has this very thumbnail.
        """
        there = self._small[: self._used]
        apart = (np.maximum(there, small) - np.minimum(there, small)).max(axis=1)
        order = apart.argsort(kind="stable").tolist()
        is_twin = bool(order) and not apart[order[0]]
        for slot in order:
            if apart[slot] > self._near:
                break
            entry = self._kept.get(slot)
            if entry is not None and entry.is_clear and entry.shape == shape:
                self._kept.move_to_end(slot)
                return entry.kept, is_twin
        return None, is_twin

    def _is_sure(self, kept: Kept) -> bool:
        return kept.answer.margin >= self._reuse.sure

    def _forget_old(self) -> None:
        now_s = self._now_s()
        if now_s <= self._fresh_until_s:
            return
        oldest_s = now_s - self._reuse.max_age_s
        for slot in [slot for slot, entry in self._kept.items() if entry.at_s < oldest_s]:
            self._forget(slot)
        times_s = (entry.at_s for entry in self._kept.values())
        self._fresh_until_s = min(times_s, default=math.inf) + self._reuse.max_age_s

    def _forget(self, slot: int) -> None:
        self._slot_of.pop(self._kept.pop(slot).digest, None)


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
    order = ""
    if content.ndim == 3 and content.strides[2] < 0:
        # bgr[:, :, ::-1]: to lay its pixels out one by one takes fifty times as long as to hash them.
        content, order = content[:, :, ::-1], "turned"
    whole = np.ascontiguousarray(content)
    return xxhash.xxh3_128_digest(whole.data) + f"{whole.dtype.str}{whole.shape}{order}".encode()
