"""The inference loop: sense, infer, select, put into the outbox. It needs no network and never waits for one.

Runs on a thread of its own. Rule kept here: nothing that goes wrong with one reading, the source, a version's process,
the disk or the link stops it, each such thing is counted and told. Neighbour: `asking` has the answers.
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
from edgeloop.device.asking import Asking, HearOfDeath
from edgeloop.device.encode import Encoder
from edgeloop.device.record import Record
from edgeloop.device.select import Selector
from edgeloop.device.sense import Senses
from edgeloop.device.slots import AtWork, Slot
from edgeloop.device.worker import Died

if TYPE_CHECKING:
    from edgeloop.runtime.sources.port import Frame, FrameError

_log = structlog.get_logger(__name__)
_AGAIN_S = 1.0
_ALERT_EVERY_S = 600.0
_LONGEST_REASON = 300


class InferenceLoop:
    """Answers frame after frame with whatever slot is active.

    shadow_share: see Asking. on_death: who judges what the death of a version's process means.
    """

    def __init__(
        self,
        senses: Senses,
        selector: Selector,
        record: Record,
        *,
        shadow_share: float,
        seed: int,
        on_death: HearOfDeath = lambda version, death: None,
    ) -> None:
        self._senses = senses
        self._selector = selector
        self._record = record
        self._on_death = on_death
        rng = random.Random(seed)  # noqa: S311 - sampling, not secrecy
        self._asking = Asking(senses.slots, shadow_share=shadow_share, rng=rng, on_death=self._died)
        self._encoder = Encoder()
        self._alerted_s: dict[tuple[str, str], float] = {}
        self.readings = 0
        self.cached = 0
        self.errors = 0
        self.error_reason = ""
        self.last_frame = ""

    def run(self, stop: threading.Event) -> None:
        """Go on until `stop` is set."""
        self._asking.stop = stop
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
            prediction, shadow, failure = self._asking.answers(frame, slot)
        except EdgeloopError as error:
            self._reading_failed(frame, error)
            return
        if failure is not None:
            self._reading_failed(frame, failure)
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

    def _died(self, version: AtWork, death: Died) -> None:
        """A version's process did not survive a frame, or was killed meanwhile."""
        bundle = str(version.manifest.ref)
        _log.error("version_died", bundle=bundle, detail=str(death), lived_s=round(death.lived_s, 1))
        self._on_death(version, death)
        self._alert_once((bundle, "died"), Alert(what="crash", detail=f"{bundle}: {death}"))

    def _sample(self, frame: "Frame", slot: Slot, prediction: Prediction, *, disagrees: bool) -> Sample | None:
        """The input as it goes up, if it is worth that."""
        spec = slot.active.manifest.input
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
        if one.is_lost:
            self._alert_once((one.name, one.error.code), Alert(what="source", detail=str(one.error)))

    def _alert_once(self, kind: tuple[str, str], alert: Alert) -> None:
        """A loose contact must not fill the outbox with alerts, which leave it last."""
        now_s = time.monotonic()
        if now_s - self._alerted_s.get(kind, -_ALERT_EVERY_S) >= _ALERT_EVERY_S:
            self._alerted_s[kind] = now_s
            self._record.keep([alert])

    def _reading_failed(self, frame: "Frame", error: EdgeloopError) -> None:
        self._failed(frame.name, error)
        _log.warning("reading_failed", source=frame.name, code=error.code, detail=str(error))

    def _failed(self, name: str, error: Exception) -> None:
        self.errors += 1
        self.error_reason = f"{name}: {error}"[:_LONGEST_REASON]
