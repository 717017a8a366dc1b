"""A bundle made ready to answer many: opened as often as there are workers, proven, and measured.

Neighbours: `crew` runs one of these on its threads, `pool` swaps one for another; `predictor` and `batched` are what
is opened.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import Bundle
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, Refused
from edgeloop.contracts.manifest import Manifest, Variant
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.batched import BatchPredictor
from edgeloop.runtime.engines.port import Setting
from edgeloop.runtime.input.port import Source
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.replay import Judge, replay

Outputs = dict[str, NDArray[np.float32]]
"""A model's outputs by the manifest's names, as real values."""

_ONE_CPU_THREAD = Setting()
_ROUNDS = 5
_TIMED_S = 0.25
_CLEARLY = 0.85
"""A run of several must take less than this share of as many single runs: below it, measurements are mostly noise."""
MAX_RUN_S = 0.05
"""A run of several may take so long unless told: whoever is in it waits for all of them."""


class Runner(Protocol):
    """One worker's own: not thread-safe. `Predictor` is one."""

    def predict(self, source: Source) -> Prediction:
        """See Predictor.predict."""
        ...

    def run_tensor(self, tensor: NDArray[np.float32]) -> Outputs:
        """See Predictor.run_tensor."""
        ...

    def close(self) -> None:
        """Give up memory."""
        ...


class ManyRunner(Protocol):
    """One worker's own way to run several inputs at once. `BatchPredictor` is one."""

    size: int

    def predict(self, sources: Sequence[Source]) -> list[Prediction | EdgeloopError]:
        """At most `size` answers in one run; an input that cannot be used has its error in its place."""
        ...

    def run_tensors(self, tensors: Sequence[NDArray[np.float32]]) -> list[Outputs]:
        """The same for preprocessed inputs."""
        ...

    def close(self) -> None:
        """Give up memory."""
        ...


@dataclass(frozen=True)
class Pace:
    """What was measured of a servable here. item_s: one answer of a worker; alone_s: of `open_alone`, 0.0 without.

    batch: inputs a run, 0 where batching does not pay.

    pays_from: so many waiting inputs are sooner answered by one run than one by one; the run is of `batch` in any
    case. sample_bytes: how large an input was, that answers took item_s.
    """

    item_s: float
    batch: int = 0
    pays_from: int = 0
    sample_bytes: int = 0
    alone_s: float = 0.0


@dataclass(frozen=True)
class Servable:
    """A version that can be opened. outputs: shapes by the manifest's names, empty where they were not measured.

    open: for one worker of several. open_many: the same, several inputs a run. open_alone: for one asker alone, with
    as many threads as answer it soonest.
    """

    manifest: Manifest
    engine: str
    precision: str
    setting: Setting
    pace: Pace
    outputs: Mapping[str, tuple[int, ...]]
    open: Callable[[], Runner]
    open_many: Callable[[], ManyRunner] | None = None
    open_alone: Callable[[], Runner] | None = None


def prove(
    bundle: Bundle,
    predictor: Predictor,
    *,
    alone: Predictor | None = None,
    max_batch: int = 1,
    max_run_s: float = MAX_RUN_S,
) -> Servable:
    """What `predictor` runs, once its golden samples agree; measured, alone and in batches of up to max_batch.

    alone: how one asker alone is answered soonest, if that is another variant or setting. Both stay the caller's.
    max_run_s: that a run of several may take. Takes tens of runs of the model. Raises Refused if the golden samples do
    not agree or the model is too slow for its budget, Corrupt if there is something wrong with them.
    """
    _check(bundle, predictor)
    samples, _ = Judge.read(bundle)
    item_s = _median_s(lambda index: predictor.predict(samples[index % len(samples)]))
    batch = _best_batch(bundle, predictor, samples, max_batch=max_batch, max_run_s=max_run_s)
    alone_s = 0.0
    if alone is not None:
        _check(bundle, alone)
        alone_s = _median_s(lambda index: alone.predict(samples[index % len(samples)]))
    variant, setting = predictor.variant, predictor.setting
    outputs = predictor.run_tensor(predictor.tensor(samples[0]))
    return Servable(
        manifest=bundle.manifest,
        engine=variant.engine,
        precision=variant.precision,
        setting=setting,
        pace=Pace(
            item_s=item_s,
            batch=batch.size if batch else 0,
            pays_from=batch.pays_from if batch else 0,
            sample_bytes=samples[0].nbytes,
            alone_s=alone_s,
        ),
        outputs={name: values.shape for name, values in outputs.items()},
        open=partial(Predictor, bundle, variant, setting=setting),
        open_many=partial(BatchPredictor, bundle, variant, setting=setting, size=batch.size) if batch else None,
        open_alone=None if alone is None else partial(Predictor, bundle, alone.variant, setting=alone.setting),
    )


def _check(bundle: Bundle, predictor: Predictor) -> None:
    result = replay(bundle, predictor.variant, predictor)
    if result.failure is not None:
        raise Refused(f"{bundle.manifest.ref} on {predictor.variant.engine} is not served: {result.failure}")


def unproven(bundle: Bundle, variant: Variant, *, setting: Setting = _ONE_CPU_THREAD) -> Servable:
    """One variant, neither proven nor measured: for bundles whose golden samples are not here."""
    return Servable(
        manifest=bundle.manifest,
        engine=variant.engine,
        precision=variant.precision,
        setting=setting,
        pace=Pace(0.0),
        outputs={},
        open=partial(Predictor, bundle, variant, setting=setting),
    )


@dataclass(frozen=True)
class Batch:
    """Runs of `size` inputs, and how long one took beside a single one."""

    size: int
    run_s: float
    single_s: float

    @property
    def pays_from(self) -> int:
        """So many waiting inputs are sooner answered by one run, of `size` rows in any case, than one by one."""
        return max(2, int(np.ceil(self.run_s / (self.single_s * _CLEARLY))))

    def gain(self, waiting: int) -> float:
        """How many times sooner so many are answered than one by one."""
        runs, rest = divmod(waiting, self.size)
        if rest >= self.pays_from:
            runs, rest = runs + 1, 0
        return waiting * self.single_s / (runs * self.run_s + rest * self.single_s)


def sizes_up_to(most: int) -> tuple[int, ...]:
    """Sizes of runs that are tried.

    >>> sizes_up_to(12)
    (2, 4, 8, 12)
    """
    doubled = [2**power for power in range(1, most.bit_length())]
    return tuple(sorted({*doubled, most})) if most > 1 else ()


def best_of(batches: Sequence[Batch], waiting: Sequence[int]) -> Batch | None:
    """Which answers soonest on the whole, be there few or many `waiting`: by the geometric mean of its gains.

    A large run is computed whole, however few are in it. None if no size clearly gains when it is full.

    >>> tried = [Batch(2, 2.0, 2.0), Batch(4, 2.1, 2.0), Batch(8, 6.0, 2.0)]
    >>> best_of(tried, (2, 4, 8)).size
    4
    """
    clear = [one for one in batches if one.gain(one.size) * _CLEARLY > 1.0]
    return max(clear, key=lambda one: sum(np.log(one.gain(count)) for count in waiting), default=None)


def _best_batch(
    bundle: Bundle, predictor: Predictor, samples: NDArray[Any], *, max_batch: int, max_run_s: float
) -> Batch | None:
    """The size of run that pays here, by measurement; None if none does, takes too long, or answers something else."""
    measured: list[Batch] = []
    sizes = sizes_up_to(max_batch)
    for size in sizes:
        one = _measured_batch(bundle, predictor, samples, size=size)
        if one is None or one.run_s > max_run_s:
            break
        measured.append(one)
    return best_of(measured, sizes)


def _measured_batch(bundle: Bundle, predictor: Predictor, samples: NDArray[Any], *, size: int) -> Batch | None:
    """One size, timed in turns with single runs: what else the machine does falls on both. None if it cannot be run
    so, or answers something else."""
    try:
        many = BatchPredictor(bundle, predictor.variant, setting=predictor.setting, size=size)
    except InvalidInput:
        return None
    try:
        judge = Judge(bundle, predictor.variant)
        for start in range(0, len(samples), size):
            for basis in many.basis(list(samples[start : start + size])):
                judge.take(basis)
        if judge.verdict() is not None:
            return None
        full = [samples[index % len(samples)] for index in range(size)]
        run_s, single_s = _medians_s(
            lambda _: many.predict(full), lambda index: predictor.predict(samples[index % len(samples)])
        )
    except EdgeloopError:  # it fails on what single runs answer: then single runs it is
        return None
    finally:
        many.close()
    return Batch(size, run_s, single_s)


def _median_s(run: Callable[[int], object]) -> float:
    """Median seconds of a call, over at least _ROUNDS calls and about _TIMED_S."""
    (took_s,) = _medians_s(run)
    return took_s


def _medians_s(*runs: Callable[[int], object]) -> tuple[float, ...]:
    """The same of several calls, taking turns."""
    took: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run(0)
    until_s = time.perf_counter() + _TIMED_S
    while len(took[0]) < _ROUNDS or (time.perf_counter() < until_s and len(took[0]) < 200):
        for run, times in zip(runs, took, strict=True):
            started_s = time.perf_counter()
            run(len(times))
            times.append(time.perf_counter() - started_s)
    return tuple(statistics.median(times) for times in took)
