"""A predictor at work on one stream, with what lasts from one input to the next.

Rules kept here: smoothing acts on answers in the order in which their inputs came; an answer that was taken from the
cache is smoothed like any other. Neighbours: `streaming` has a source beside it, `device.answer` is asked by pipe.
"""

from typing import Protocol

import msgspec

from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.cache import CacheCounters, ResultCache
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.output.smooth import Smoother, make_smoother
from edgeloop.runtime.sources.port import Frame


class Answerer(Protocol):
    """What a stream asks of a Predictor."""

    manifest: Manifest

    def predict_next(
        self, source: Source, *, cache: ResultCache | None = None, smoother: Smoother | None = None
    ) -> Prediction:
        """See Predictor.predict_next."""
        ...


class Answering:
    """A predictor at work on one stream, with what lasts from one input to the next. Not thread-safe.

    cache: what does not change is not computed again, within the bound that the manifest states. smooth: over time, as
    the manifest says. Both are this stream's own, whatever else the predictor answers.
    """

    def __init__(self, predictor: Answerer, *, cache: bool = True, smooth: bool = True) -> None:
        manifest = predictor.manifest
        self.predictor = predictor
        self._cache = ResultCache(manifest) if cache else None
        self._smoother = make_smoother(manifest.output, manifest.labels) if smooth else None

    @property
    def counters(self) -> CacheCounters:
        """What came of the cache so far."""
        return self._cache.counters if self._cache is not None else CacheCounters()

    def forget(self) -> None:
        """Compute again what comes again; smoothing goes on."""
        if self._cache is not None:
            self._cache.clear()

    def answer(self, frame: Frame) -> Prediction:
        """The prediction for the stream's next input. Raises as Predictor.predict does."""
        made = self.predictor.predict_next(frame.data, cache=self._cache, smoother=self._smoother)
        return msgspec.structs.replace(made, source=frame.name, at_s=frame.at_s)
