"""What a device senses: the frames of its source, cut as the active version wants them.

Rules kept here: nothing is opened before there is a version, since only its manifest says what is wanted; what cannot
be opened is told once and tried again, for ever, after waits that double; a version of another input has the source
opened anew; of a source that has come to its end, nothing is read twice. Neighbours: `runtime.sources` reads, `infer`
answers.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from edgeloop.backoff import Backoff
from edgeloop.contracts.errors import EdgeloopError, NotFound, Unavailable
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.messages import SourceHealth
from edgeloop.device.slots import Slot, Slots
from edgeloop.runtime.sources.names import shown
from edgeloop.transport.keep import Keep
from edgeloop.transport.outbox import Outbox

if TYPE_CHECKING:
    from edgeloop.runtime.sources.port import Counts, Frame, FrameError, FrameSource

    Opener = Callable[[Manifest, str], FrameSource]
    """Opens the source for a version, after the last frame that was read of it. Raises an EdgeloopError."""

_log = structlog.get_logger(__name__)
_LOOK_EVERY_S = 0.2


def opener(source: str, *, rate_hz: float = 0.0) -> "Opener":
    """Opens a camera, a URL, a folder or a file; folders and CSV tables are followed. See `open_lasting`."""

    def opened(manifest: Manifest, after: str) -> "FrameSource":
        from edgeloop.runtime.sources.open import open_lasting  # not before there is a model

        return open_lasting(source, manifest.input, manifest.preprocess, rate_hz=rate_hz, after=after)

    return opened


def resume_after(source: str, keep: Keep, outbox: Outbox) -> str:
    """The last frame that an earlier run read of this source; empty if it read another one, or another file under
    this name."""
    name = shown(source)
    if name == source:
        path = Path(source).resolve()
        # A table that was rotated has the same name and holds other rows.
        name = f"{path} {path.stat().st_ino}" if path.is_file() else str(path)
    before = keep.get("source", str)
    if before != name:
        try:
            keep.set({"source": name})
        except Unavailable as error:
            # A full disk is no reason not to sense; at worst the next run begins this source anew.
            _log.error("source_not_written_down", source=shown(source), detail=str(error))
    # None: that run did not write it down yet.
    return outbox.last_source() if before in (None, name) else ""


class Senses:
    """Frames for whatever version is active, for as long as the device runs.

    name: of the source, for people. slots: who is to answer. after: the last frame of an earlier run. backoff: between
    tries of a source that is not there.
    """

    def __init__(self, name: str, opened: "Opener", slots: Slots, *, backoff: Backoff, after: str = "") -> None:
        self._name = shown(name)
        self._opened = opened
        self.slots = slots
        self._after = after
        self._backoff = backoff
        self._told = ""
        self._trouble = ""
        self._reopened_before_trouble = 0
        # One attribute, so that it changes at once for who asks from another thread.
        self._counted: tuple[SourceHealth, FrameSource | None] = (SourceHealth(), None)

    def frames(self, stop: threading.Event) -> "Iterator[tuple[Slot, Frame | FrameError]]":
        """Each frame with the slot that is to answer it, which stays open until the next is asked for; until `stop` is
        set. One iteration at a time."""
        last = None
        while not stop.is_set():
            slot = self.slots.current
            if slot is None:
                self.slots.wait(_LOOK_EVERY_S)
                continue
            if slot.active is not last:
                last, self._told = slot.active, ""
            yield from self._opening(slot, _Until(stop, self.slots, slot))

    def health(self) -> SourceHealth:
        """How the source does; may be asked from any thread."""
        before, source = self._counted
        made = _added(before, source.counts) if source is not None else before
        is_back = made.reopened > self._reopened_before_trouble
        return msgspec.structs.replace(made, trouble="" if is_back else self._trouble)

    def _opening(self, slot: Slot, until: "_Until") -> "Iterator[tuple[Slot, Frame | FrameError]]":
        """All that comes until the source ends, or `until`."""
        from edgeloop.runtime.sources.port import FrameError

        try:
            source = self._opened(slot.active.manifest, self._after)
        except EdgeloopError as error:
            yield from self._missing(slot, error, until)
            return
        _log.info("source_opened", source=self._name, bundle=str(slot.active.manifest.ref), after=self._after)
        self._counted = (self._counted[0], source)
        why: EdgeloopError = NotFound(f"{self._name} holds nothing that this version takes")
        is_used = False
        try:
            for one in source.frames(until):
                current = self._taken(until)
                if current is None:
                    continue
                if isinstance(one, FrameError):
                    why = one.error
                    if one.is_lost:
                        self._note(one.error)
                    yield current, one
                else:
                    self._well()
                    is_used = True
                    yield current, one
                    self._after = one.name
                self.slots.let_go()
        finally:
            self.slots.let_go()
            self._counted = (_added(self._counted[0], source.counts), None)
        if until.is_set():
            return
        if is_used:
            self._trouble = f"{self._name} has come to its end"
            _log.info("source_ended", source=self._name)
            until.wait()
        else:
            yield from self._missing(slot, why, until)

    def _missing(self, slot: Slot, error: EdgeloopError, until: "_Until") -> "Iterator[tuple[Slot, FrameError]]":
        """Tell it once, and wait for the next try."""
        from edgeloop.runtime.sources.port import FrameError

        self._note(error)
        wait_s = self._backoff.failed()
        _log.warning("source_missing", source=self._name, detail=str(error), retry_in_s=round(wait_s, 2))
        if self._told != str(error):
            self._told = str(error)
            yield slot, FrameError(self._name, error, 0.0, is_lost=True)
        until.wait(wait_s)

    def _note(self, error: EdgeloopError) -> None:
        self._reopened_before_trouble = self.health().reopened
        self._trouble = str(error)

    def _well(self) -> None:
        if self._trouble or self._told:
            self._trouble = self._told = ""
            self._backoff.succeeded()

    def _taken(self, until: "_Until") -> Slot | None:
        """Who answers now, to be let go of; waited for while there is nobody. None once `until` is set."""
        while True:
            slot = self.slots.take()
            if slot is not None and not until.is_set():
                return slot
            self.slots.let_go()
            if until.is_set():
                return None
            self.slots.wait(_LOOK_EVERY_S)


class _Until(threading.Event):
    """Set once `stop` is, or a version of another input is active than the one of this slot."""

    def __init__(self, stop: threading.Event, slots: Slots, slot: Slot) -> None:
        super().__init__()
        self._stop = stop
        self._slots = slots
        self._like = slot

    def is_set(self) -> bool:
        """Whether it is time to end."""
        return self._stop.is_set() or not self._is_like(self._slots.current)

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until then, looking every 0.2 s."""
        end_s = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left_s = _LOOK_EVERY_S if end_s is None else end_s - time.monotonic()
            if left_s <= 0:
                return False
            self._stop.wait(min(left_s, _LOOK_EVERY_S))
        return True

    def _is_like(self, slot: Slot | None) -> bool:
        # While there is no version, one that takes the same may come.
        if slot is None or slot.active is self._like.active:
            return True
        if not takes_the_same(slot.active.manifest, self._like.active.manifest):
            return False
        self._like = slot
        return True


def takes_the_same(one: Manifest, other: Manifest) -> bool:
    """Whether two versions take the same frames of a source: modality, rate, channels, windows."""
    from edgeloop.runtime.sources.open import input_kind

    return input_kind(one.input, one.preprocess) == input_kind(other.input, other.preprocess)


def _added(health: SourceHealth, counts: "Counts") -> SourceHealth:
    return msgspec.structs.replace(
        health,
        dropped=health.dropped + counts.dropped,
        skipped=health.skipped + counts.skipped,
        stalled=health.stalled + counts.stalled,
        reopened=health.reopened + counts.reopened,
    )
