"""Time bare models in clean processes, where no toolchain weighs in: latency by turns, peak memory one by one."""

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Refused
from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.child import command_of
from edgeloop.runtime.footprint import Job, ModelFile, Timing, Timings
from edgeloop.toolchain.source.engine import ENGINES
from edgeloop.toolchain.source.model import Feeds, Model

_TIMEOUT_S = 300
_MEMORY_RUNS = 20


@dataclass(frozen=True)
class Subject:
    """What is timed. feeds: real values by input name (N, ...), in the model's order of inputs."""

    model: Model
    feeds: Feeds


def engine_of(model: Model) -> EngineName | None:
    """What executes the file as it is; None for a format that must be converted first, or compiled."""
    return ENGINES.get(model.format)


def time_by_turns(subjects: Sequence[Subject], *, runs: int = 300, seconds: float = 10.0) -> tuple[Timing, ...]:
    """Latency of each, interleaved in one process of their own, one thread.

    runs: of each; fewer, but at least 20, if they take longer than `seconds` in all. Raises Refused if one does not
    run there.
    """
    return _in_clean_process(subjects, runs=runs, seconds=seconds).models


def peak_memory_bytes(subject: Subject) -> int:
    """The most memory that a process with this model and its engine alone takes. Raises Refused if it does not run."""
    return _in_clean_process([subject], runs=_MEMORY_RUNS, seconds=10.0).peak_memory_bytes


def _in_clean_process(subjects: Sequence[Subject], *, runs: int, seconds: float) -> Timings:
    with tempfile.TemporaryDirectory() as folder:
        files = tuple(_write(Path(folder) / str(index), subject) for index, subject in enumerate(subjects))
        job = Path(folder) / "job.json"
        job.write_bytes(to_json(Job(models=files, runs=runs, seconds=seconds)))
        names = ", ".join(subject.model.name for subject in subjects)
        try:
            done = subprocess.run(  # noqa: S603 - our own module on our own files
                [*command_of("edgeloop.runtime.footprint"), "--job", str(job)],
                capture_output=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Refused(f"{names}: {runs} runs were not done within {_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise Refused(f"{names}: does not run in a clean process: {done.stderr.decode(errors='replace')[-500:]}")
    return msgspec.json.decode(done.stdout, type=Timings)


def _write(folder: Path, subject: Subject) -> ModelFile:
    engine = engine_of(subject.model)
    if engine is None:
        raise Refused(f"{subject.model.name} is a {subject.model.format} model; no engine runs that as it is")
    folder.mkdir()
    path = folder / "model"
    path.write_bytes(subject.model.data)
    inputs = []
    for index, spec in enumerate(subject.model.inputs):
        file = folder / f"{index}.npy"
        values = np.asarray(subject.feeds[spec.name])
        file.write_bytes(to_npy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64)))
        inputs.append(str(file))
    return ModelFile(engine=engine, path=str(path), inputs=tuple(inputs))
