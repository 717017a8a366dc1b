"""The inference loop: sense, infer, select, put into the outbox. It needs no network and never waits for one.

Runs on a thread of its own. Rules kept here: nothing that goes wrong with one reading, the source, the disk or the
link stops it, each such thing is counted and told; the shadow sees the same frame as the active version, each with its
own cache and smoothing; an answer that was not computed says nothing of latency.
"""

import random
import threading
import time
from typing import TYPE_CHECKING

import msgspec
import structlog

from edgeloop.contracts.errors import EdgeloopError, InvalidInput
from edgeloop.contracts.messages import Alert, Body, Reading, Sample
from edgeloop.contracts.prediction import Prediction
from edgeloop.device.encode import Encoder
from edgeloop.device.record import Record
from edgeloop.device.select import Selector
from edgeloop.device.sense import Senses, takes_the_same
from edgeloop.device.slots import Slot

if TYPE_CHECKING:
    from edgeloop.runtime.predictor import Predictor
    from edgeloop.runtime.sources.port import Frame, FrameError
    from edgeloop.runtime.streaming import Answering

_log = structlog.get_logger(__name__)
_HALF = 0.5
_AGAIN_S = 1.0
_ALERT_EVERY_S = 600.0
_LONGEST_REASON = 300


class InferenceLoop:
    """Answers frame after frame with whatever slot is active.

    shadow_share: of the readings that the old version answers, too, while a new one is on watch. cache: see
    DeviceConfig.
    """

    def __init__(
        self,
        senses: Senses,
        selector: Selector,
        record: Record,
        *,
        shadow_share: float,
        seed: int,
        cache: bool = True,
    ) -> None:
        self._senses = senses
        self._selector = selector
        self._record = record
        self._shadow_share = shadow_share
        self._rng = random.Random(seed)  # noqa: S311 - sampling, not secrecy
        self._cache = cache
        self._encoder = Encoder()
        self._active: Answering | None = None
        self._old: Answering | None = None
        self._alerted_s: dict[tuple[str, str], float] = {}
        self.readings = 0
        self.cached = 0
        self.errors = 0
        self.error_reason = ""
        self.last_frame = ""

    def run(self, stop: threading.Event) -> None:
        """Go on until `stop` is set."""
        while not stop.is_set():
            try:
                for slot, one in self._senses.frames(stop):
                    self._guarded_take(one, slot)
            except Exception as error:  # noqa: BLE001 - the outer guard: a source must not end the loop
                self._failed("source", error)
                _log.error("sensing_broke", retry_in_s=_AGAIN_S, exc_info=error)
                stop.wait(_AGAIN_S)

    def _guarded_take(self, one: "Frame | FrameError", slot: Slot) -> None:
        from edgeloop.runtime.sources.port import Frame

        try:
            if isinstance(one, Frame):
                self.take(one, slot)
            else:
                self._miss(one, slot)
        except Exception as error:  # noqa: BLE001 - the outer guard: one frame must not end the loop
            self._failed(one.name, error)
            if slot.watch is not None:
                slot.watch.failed()
            _log.error("reading_broke", source=one.name, exc_info=error)

    def take(self, frame: "Frame", slot: Slot) -> None:
        """Answer one frame."""
        try:
            prediction, shadow = self._answers(frame, slot)
        except EdgeloopError as error:
            self._failed(frame.name, error)
            _log.warning("reading_failed", source=frame.name, code=error.code, detail=str(error))
            instead = self._instead(frame, slot)
            if instead is None:
                return
            prediction, shadow = instead, None
        else:
            if slot.watch is not None:
                slot.watch.saw(prediction, shadow)
        disagrees = shadow is not None and shadow.label != prediction.label
        sample = self._sample(frame, slot, prediction, disagrees=disagrees)
        reading = Reading(
            source=frame.name,
            # A face's vector and a mask are samples, not readings: they stay here. The name stands beside.
            prediction=msgspec.structs.replace(prediction, vector=(), mask_png=None, source=""),
            shadow_label=shadow.label if shadow is not None else None,
            sent_sample=sample is not None,
        )
        bodies: list[Body] = [reading] if sample is None else [reading, sample]
        if slot.drift.add(prediction):
            bodies.append(Alert(what="drift", detail=slot.drift.reason))
        self._record.keep(bodies)
        self.readings += 1
        self.cached += prediction.cached
        self.last_frame = frame.name

    def _answers(self, frame: "Frame", slot: Slot) -> tuple[Prediction, Prediction | None]:
        """The active version's answer, and the old one's if it shadows this reading and can give one."""
        active = self._active = self._answering(slot.predictor, self._active)
        # Whoever runs first after a pause pays for cold caches: take turns, so that latencies can be compared.
        is_shadowed = slot.shadow is not None and self._rng.random() < self._shadow_share
        shadow_first = is_shadowed and self._rng.random() < _HALF
        shadow = self._shadow(frame, slot) if shadow_first else None
        prediction = active.answer(frame)
        if is_shadowed and not shadow_first:
            shadow = self._shadow(frame, slot)
        return prediction, shadow

    def _instead(self, frame: "Frame", slot: Slot) -> Prediction | None:
        """While a version is on watch, what it cannot answer is answered by the one before it."""
        if slot.watch is None:
            return None
        slot.watch.failed()
        return None if slot.shadow is None else self._shadow(frame, slot)

    def _shadow(self, frame: "Frame", slot: Slot) -> Prediction | None:
        """The old version's answer to the same frame; None if it cannot give one, or takes other inputs."""
        assert slot.shadow is not None
        if not takes_the_same(slot.shadow.manifest, slot.predictor.manifest):
            return None
        try:
            old = self._old = self._answering(slot.shadow, self._old)
            return old.answer(frame)
        except EdgeloopError as error:
            _log.warning("shadow_failed", source=frame.name, code=error.code, detail=str(error))
            return None

    def _answering(self, predictor: "Predictor", before: "Answering | None") -> "Answering":
        """What remembers this predictor's earlier inputs: the same as before, if it is of this one."""
        if before is not None and before.predictor is predictor:
            return before
        from edgeloop.runtime.streaming import Answering  # brings NumPy: not before there is a model

        return Answering(predictor, cache=self._cache)

    def _sample(self, frame: "Frame", slot: Slot, prediction: Prediction, *, disagrees: bool) -> Sample | None:
        """The input as it goes up, if it is worth that."""
        spec = slot.predictor.manifest.input
        estimated_bytes = self._encoder.size_bytes(frame.data, spec)
        reason = self._selector.choose(prediction, size_bytes=estimated_bytes, disagrees=disagrees)
        if reason is None:
            return None
        made = self._encoder.encode(frame.data, frame.media, spec)
        if not self._selector.settle(reason, size_bytes=len(made.data), estimated_bytes=estimated_bytes):
            return None
        return Sample(source=frame.name, reason=reason, media=made.media, data=made.data)

    def _miss(self, one: "FrameError", slot: Slot) -> None:
        """Something of the source could not be had."""
        self._failed(one.name, one.error)
        _log.warning("input_failed", source=one.name, code=one.error.code, detail=str(one.error))
        # A camera that is away is not the version's fault; that it wants what the source does not give may be.
        if slot.watch is not None and isinstance(one.error, InvalidInput):
            slot.watch.failed()
        now_s, kind = time.monotonic(), (one.name, one.error.code)
        # A loose contact must not fill the outbox with alerts, which leave it last.
        if one.is_lost and now_s - self._alerted_s.get(kind, -_ALERT_EVERY_S) >= _ALERT_EVERY_S:
            self._alerted_s[kind] = now_s
            self._record.keep([Alert(what="source", detail=str(one.error))])

    def _failed(self, name: str, error: Exception) -> None:
        self.errors += 1
        self.error_reason = f"{name}: {error}"[:_LONGEST_REASON]
