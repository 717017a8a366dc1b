"""How long one inference takes, for several models in one run: interleaved, one thread, in a process of its own.

Each round gives every engine a turn, in an order that changes from round to round, so that whatever else the machine
does falls on all of them alike; a turn is long enough for the clock, and the median of all turns is reported. What is
timed is the engine's run: the input already lies there as the file's input tensor stores it, the same for all, since
bringing a sensor's bytes into that form is the caller's work and edgeloop fuses it with preprocessing.

Run as `python -m benchmarks.latency FOLDER`, where FOLDER holds `spec.json`; prints one line of JSON.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.arrays import from_npy, to_npy
from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.find import load_engine
from edgeloop.runtime.engines.port import Engine
from edgeloop.runtime.engines.quantized import quantize_tensor

ROUNDS = 200
TURN_S = 0.002

_TIMEOUT_S = 600
_SPEC, _SAMPLE = "spec.json", "sample.npy"
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """One model to time: its engine, and its file in the folder."""

    key: str
    engine: EngineName
    file: str


def latency_ms(
    models: Mapping[str, tuple[EngineName, bytes]], sample: NDArray[np.float32], *, rounds: int = ROUNDS
) -> dict[str, float]:
    """Median milliseconds of one run of each, by key. sample: one real input, brought to each one's shape."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        timed = [Timed(key=key, engine=engine, file=f"{i}") for i, (key, (engine, _)) in enumerate(models.items())]
        for one in timed:
            (folder / one.file).write_bytes(models[one.key][1])
        (folder / _SPEC).write_bytes(msgspec.json.encode(timed))
        (folder / _SAMPLE).write_bytes(to_npy(sample))
        done = subprocess.run(  # noqa: S603 - our own module on our own files
            [sys.executable, "-m", "benchmarks.latency", str(folder), str(rounds)],
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
            cwd=Path(__file__).resolve().parents[1],
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
        )
    if done.returncode != 0:
        raise RuntimeError(f"timing ended with {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}")
    return msgspec.json.decode(done.stdout, type=dict[str, float])


def interleaved_ms(
    engines: Mapping[str, Engine], sample: NDArray[np.float32], *, rounds: int = ROUNDS, turn_s: float = TURN_S
) -> dict[str, float]:
    """As `latency_ms`, for engines that are loaded, in this process."""
    feeds = {key: feed_of(engine, sample) for key, engine in engines.items()}
    repeats = {key: _repeats(engine, feeds[key], turn_s) for key, engine in engines.items()}
    took: dict[str, list[float]] = {key: [] for key in engines}
    rng = np.random.default_rng(0)
    keys: Sequence[str] = list(engines)
    for _ in range(rounds):
        for index in rng.permutation(len(keys)):
            key = keys[index]
            took[key].append(_turn_s(engines[key], feeds[key], repeats[key]) * 1e3)
    return {key: float(np.median(times)) for key, times in took.items()}


def feed_of(engine: Engine, sample: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """The sample as the engine's one input tensor shapes and stores it."""
    (taken,) = engine.inputs
    return {taken.name: np.ascontiguousarray(quantize_tensor(sample.reshape(taken.shape), taken))}


def _repeats(engine: Engine, feed: dict[str, NDArray[Any]], turn_s: float) -> int:
    """Runs that fill a turn, after a warm-up."""
    _turn_s(engine, feed, 10)
    return max(1, int(turn_s / _turn_s(engine, feed, 10)))


def _turn_s(engine: Engine, feed: dict[str, NDArray[Any]], repeats: int) -> float:
    """Seconds a run, over `repeats` runs."""
    started = time.perf_counter()
    for _ in range(repeats):
        engine.run(feed)
    return (time.perf_counter() - started) / repeats


def _main(folder: Path, rounds: int) -> None:
    timed = msgspec.json.decode((folder / _SPEC).read_bytes(), type=list[Timed])
    sample = from_npy((folder / _SAMPLE).read_bytes(), what="sample")
    engines = {one.key: load_engine(one.engine, (folder / one.file).read_bytes()) for one in timed}
    sys.stdout.buffer.write(msgspec.json.encode(interleaved_ms(engines, sample, rounds=rounds)) + b"\n")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]))
