"""Answers for what keeps coming: a source and a predictor.

Rule kept here: an input that cannot be used ends nothing, it is counted and logged. Neighbour: `answering` has what
lasts from one input to the next.
"""

import os
import threading
from collections.abc import Iterable, Iterator

import msgspec
import structlog

from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.answering import Answerer, Answering
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.sources.open import open_source
from edgeloop.runtime.sources.port import Counts, Frame, FrameError

_log = structlog.get_logger(__name__)


class StreamCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What happened so far. answered: inputs with an answer, those from the cache (exact, near) among them. failed:
    inputs that could not be used. source: of the frames, see there."""

    answered: int
    failed: int
    exact: int
    near: int
    source: Counts


class Stream:
    """One source answered by one predictor. Arguments as in `Predictor.stream`; cache, smooth: see Answering."""

    def __init__(
        self,
        predictor: Answerer,
        source: str | os.PathLike[str] | Iterable[Source],
        *,
        follow: bool = False,
        rate_hz: float = 0.0,
        cache: bool = True,
        smooth: bool = True,
    ) -> None:
        manifest = predictor.manifest
        self._frames = open_source(source, manifest.input, manifest.preprocess, follow=follow, rate_hz=rate_hz)
        self._answering = Answering(predictor, cache=cache, smooth=smooth)
        self._answered = 0
        self._failed = 0

    @property
    def counts(self) -> StreamCounts:
        """So far."""
        held = self._answering.counters
        return StreamCounts(
            answered=self._answered, failed=self._failed, exact=held.exact, near=held.near, source=self._frames.counts
        )

    def predictions(self, stop: threading.Event | None = None) -> Iterator[Prediction]:
        """One prediction for each input that could be used, in order, until the source ends or `stop` is set.

        Those that could not are counted and logged.
        """
        for frame, made in self.answers(stop):
            if isinstance(made, Prediction):
                yield made
            else:
                _log.warning("input_failed", source=frame.name if frame else "", code=made.code, detail=str(made))

    def answers(self, stop: threading.Event | None = None) -> Iterator[tuple[Frame | None, Prediction | EdgeloopError]]:
        """Each input with its prediction, or with the error that it met; None for one that never came to be a frame."""
        for frame in self._frames.frames(stop):
            if isinstance(frame, FrameError):
                self._failed += 1
                yield None, frame.error
                continue
            try:
                made = self._answering.answer(frame)
            except EdgeloopError as error:
                self._failed += 1
                yield frame, error
                continue
            self._answered += 1
            yield frame, made
