"""What a bundle or a bare model costs on this machine: latency and peak memory, in a process that does nothing else.

Run as `python -m edgeloop.runtime.footprint BUNDLE [WHICH as JSON]`, or `... --job JOB.json` for model files; prints
one line of JSON.
"""

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import open_bundle
from edgeloop.bundle.arrays import from_npy
from edgeloop.contracts.codec import from_json
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.find import load_engine
from edgeloop.runtime.engines.port import Engine, Setting
from edgeloop.runtime.engines.quantized import quantize_tensor
from edgeloop.runtime.predictor import Predictor

_WARM_UP_RUNS = 20
_RUNS = 300
_FEWEST_RUNS = 20


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Latency from a decoded image to the prediction, one thread; peak memory of the whole process."""

    latency_p50_ms: float
    latency_p99_ms: float
    peak_memory_bytes: int


class Which(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of a bundle, by its file's hash, and how to run it."""

    variant: str
    setting: Setting = Setting()


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model to time. path: the file. inputs: one .npy for each of its inputs, in its order, real values (N, ...)."""

    engine: EngineName
    path: str
    inputs: tuple[str, ...]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to time in one process. seconds: at most so long, but never fewer than 20 runs of each model."""

    models: tuple[ModelFile, ...]
    runs: int = _RUNS
    seconds: float = 10.0
    schema: int = 1


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """One model's inference alone, one thread: tensors in, tensors out."""

    latency_p50_ms: float
    latency_p99_ms: float
    runs: int


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """models: in the job's order. peak_memory_bytes: of the whole process, with all of them loaded."""

    models: tuple[Timing, ...]
    peak_memory_bytes: int


def take_footprint(path: str, which: Which | None = None) -> Footprint:
    """Load a variant, the bundle's first unless told, and time it over the golden samples."""
    bundle = open_bundle(path)
    chosen = which or Which(variant=bundle.manifest.variants[0].file)
    predictor = Predictor(bundle, bundle.variant(chosen.variant), setting=chosen.setting)
    inputs = from_npy(bundle.read(bundle.manifest.golden.inputs), what="golden inputs")
    for index in range(_WARM_UP_RUNS):
        predictor.predict(inputs[index % len(inputs)])
    runs = _RUNS if which is None else _FEWEST_RUNS
    latency_ms = [predictor.predict(inputs[index % len(inputs)]).latency_ms for index in range(runs)]
    return Footprint(
        latency_p50_ms=float(np.percentile(latency_ms, 50)),
        latency_p99_ms=float(np.percentile(latency_ms, 99)),
        peak_memory_bytes=peak_memory_bytes(),
    )


def take_timings(job: Job) -> Timings:
    """Time the models by turns, so that what else the machine does falls on all of them alike.

    Raises what loading raises, and InvalidInput if inputs do not fit.
    """
    steps = [_step(model) for model in job.models]
    latency_ms: list[list[float]] = [[] for _ in steps]
    for index in range(min(_WARM_UP_RUNS, job.runs)):
        for step in steps:
            step(index)
    ends_at = time.perf_counter() + job.seconds
    for index in range(job.runs):
        for taken, step in zip(latency_ms, steps, strict=True):
            started_ns = time.perf_counter_ns()
            step(index)
            taken.append((time.perf_counter_ns() - started_ns) / 1e6)
        if index + 1 >= _FEWEST_RUNS and time.perf_counter() > ends_at:
            break
    return Timings(models=tuple(_timing(taken) for taken in latency_ms), peak_memory_bytes=peak_memory_bytes())


def _step(model: ModelFile) -> Callable[[int], object]:
    engine = load_engine(model.engine, Path(model.path).read_bytes())
    feeds = _feeds(model, engine)

    def step(index: int) -> object:
        return engine.run(feeds[index % len(feeds)])

    return step


def _feeds(model: ModelFile, engine: Engine) -> list[dict[str, NDArray[Any]]]:
    if len(model.inputs) != len(engine.inputs):
        names = ", ".join(spec.name for spec in engine.inputs)
        raise InvalidInput(f"{model.path} has the inputs {names}; the job gives {len(model.inputs)} arrays")
    arrays = [from_npy(Path(path).read_bytes(), what=path) for path in model.inputs]
    stored = {spec.name: quantize_tensor(array, spec) for spec, array in zip(engine.inputs, arrays, strict=True)}
    return [
        {name: np.ascontiguousarray(array[index : index + 1]) for name, array in stored.items()}
        for index in range(len(arrays[0]))
    ]


def _timing(latency_ms: list[float]) -> Timing:
    return Timing(
        latency_p50_ms=float(np.percentile(latency_ms, 50)),
        latency_p99_ms=float(np.percentile(latency_ms, 99)),
        runs=len(latency_ms),
    )


def peak_memory_bytes() -> int:
    """The most resident memory so far. Linux's VmHWM where there is one: ru_maxrss counts the parent's, from
    before exec, too."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _answer(arguments: list[str]) -> msgspec.Struct:
    if arguments[0] == "--job":
        return take_timings(from_json(Path(arguments[1]).read_bytes(), Job, what=arguments[1]))
    which = msgspec.json.decode(arguments[1], type=Which) if len(arguments) > 1 else None
    return take_footprint(arguments[0], which)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(_answer(sys.argv[1:])) + b"\n")
