"""The inference loop: sense, infer, select, put into the outbox. It needs no network and never waits for one.

Runs on a thread of its own. Rule kept here: nothing that goes wrong with one reading, the disk or the link stops
it; each such thing is counted and told.
"""

import random
import threading
import time

import msgspec
import structlog

from edgeloop.contracts.errors import EdgeloopError, Unavailable
from edgeloop.contracts.messages import Alert, Body, Reading, Sample
from edgeloop.contracts.prediction import Prediction
from edgeloop.device.select import Selector
from edgeloop.device.slots import Slot, Slots
from edgeloop.device.sources import Frame, Source
from edgeloop.transport.outbox import Outbox

_log = structlog.get_logger(__name__)
_IDLE_S = 0.5
_HALF = 0.5


class InferenceLoop:
    """Answers frame after frame with whatever slot is active."""

    def __init__(
        self, source: Source, slots: Slots, selector: Selector, outbox: Outbox, *, shadow_share: float, seed: int
    ) -> None:
        self._source = source
        self._slots = slots
        self._selector = selector
        self._outbox = outbox
        self._shadow_share = shadow_share
        self._rng = random.Random(seed)  # noqa: S311 - sampling, not secrecy
        self.readings = 0
        self.errors = 0
        self.dropped = 0
        self.last_frame = ""

    def run(self, stop: threading.Event) -> None:
        """Go on until `stop` is set."""
        while not stop.is_set() and not self._slots.wait(_IDLE_S):
            continue
        for frame in self._source.frames(stop):
            slot = self._slots.current
            while slot is None and not stop.is_set():
                self._slots.wait(_IDLE_S)
                slot = self._slots.current
            if slot is not None:
                self._guarded_take(frame, slot)

    def _guarded_take(self, frame: Frame, slot: Slot) -> None:
        try:
            self.take(frame, slot)
        except Exception as error:  # noqa: BLE001 - the outer guard: one frame must not end the loop
            self.errors += 1
            _log.error("reading_broke", source=frame.name, exc_info=error)

    def take(self, frame: Frame, slot: Slot) -> None:
        """Answer one frame."""
        # Whoever runs first after a pause pays for cold caches: take turns, so that latencies can be compared.
        is_shadowed = slot.shadow is not None and self._rng.random() < self._shadow_share
        shadow_first = is_shadowed and self._rng.random() < _HALF
        shadow = self._shadow(frame, slot) if shadow_first else None
        try:
            prediction = slot.predictor.predict(frame.data)
        except EdgeloopError as error:
            self.errors += 1
            if slot.watch is not None:
                slot.watch.failed()
            _log.warning("reading_failed", source=frame.name, code=error.code, detail=str(error))
            return
        if is_shadowed and not shadow_first:
            shadow = self._shadow(frame, slot)
        disagrees = shadow is not None and shadow.label != prediction.label
        if slot.watch is not None:
            shadow_latency_ms = shadow.latency_ms if shadow is not None else None
            slot.watch.saw(latency_ms=prediction.latency_ms, shadow_latency_ms=shadow_latency_ms, disagrees=disagrees)
        reason = self._selector.choose(prediction, size_bytes=len(frame.data), disagrees=disagrees)
        reading = Reading(
            source=frame.name,
            # A face's vector and a mask are samples, not readings: they stay here.
            prediction=msgspec.structs.replace(prediction, vector=(), mask_png=None),
            shadow_label=shadow.label if shadow is not None else None,
            sent_sample=reason is not None,
        )
        bodies: list[Body] = [reading]
        if reason is not None:
            bodies.append(Sample(source=frame.name, reason=reason, media=frame.media, data=frame.data))
        if slot.drift.add(prediction):
            bodies.append(Alert(what="drift", detail=slot.drift.reason))
        self._keep(bodies)
        self.readings += 1
        self.last_frame = frame.name

    def _shadow(self, frame: Frame, slot: Slot) -> Prediction | None:
        """The old version's answer to the same frame; None if it cannot give one."""
        assert slot.shadow is not None
        try:
            return slot.shadow.predict(frame.data)
        except EdgeloopError as error:
            _log.warning("shadow_failed", source=frame.name, code=error.code, detail=str(error))
            return None

    def _keep(self, bodies: list[Body]) -> None:
        try:
            self._outbox.append(bodies, at_ms=int(time.time() * 1000))
        except Unavailable as error:
            before = self.dropped
            self.dropped += len(bodies)
            # At every doubling: a full disk is no place for a line a reading.
            if self.dropped.bit_length() > before.bit_length():
                _log.error("outbox_full", dropped=self.dropped, detail=str(error))
