"""A cloud of the simulation's own: made in a folder, served by `edgeloop cloud serve`, with something to roll out."""

import random
import subprocess
import sys
from pathlib import Path

from edgeloop.bundle.archive import SUFFIX, digest, entries, write_bundle
from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.manifest import (
    EngineName,
    Golden,
    InputSpec,
    Lineage,
    Manifest,
    Measured,
    Modality,
    Precision,
    Tolerance,
    Variant,
)
from edgeloop.contracts.output import Activation, Classification
from edgeloop.simulate.program import Program, Watched, read_ready
from edgeloop.transport.cloud_api import Operator, read_operator

_LABELS = ("cat", "dog", "bird", "fish")
_GOLDEN = 16


class OwnCloud:
    """A cloud process. options: of `cloud init` and `cloud serve` both, such as the database."""

    def __init__(self, folder: Path, *, options: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._options = options
        self._port = "0"
        self._program: Program | None = None
        self.url = ""

    def found(self) -> None:
        """Make its keys and its database. Raises Unavailable if that fails."""
        command = [
            sys.executable,
            "-m",
            "edgeloop",
            "cloud",
            "init",
            *self._where(),
            *self._options,
            "--keys",
            str(self.keys),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own program
        if done.returncode:
            raise Unavailable(f"no cloud could be made in {self._folder}: {done.stderr.strip()[-500:]}")

    @property
    def keys(self) -> Path:
        """Where its offline keys lie."""
        return self._folder / "keys"

    def start(self) -> None:
        """Serve, at the same address each time."""
        arguments = ("edgeloop", "cloud", "serve", *self._where(), *self._options, "--port", self._port, "--json")
        self._program = Program(*arguments, log=self._folder / "cloud.log")
        self.url = read_ready(self._program)["url"]
        self._port = self.url.rpartition(":")[2]

    def kill(self) -> None:
        """SIGKILL it, as a power cut would."""
        assert self._program is not None
        self._program.kill()

    def end(self) -> None:
        """End it."""
        if self._program is not None:
            self._program.end()

    def watched(self) -> Watched:
        """What its process costs."""
        assert self._program is not None
        return Watched(self._program.pid)

    def replica(self) -> "OwnCloud":
        """Another process over the same stores, not yet started; the database must be one that takes several."""
        return OwnCloud(self._folder, options=self._options)

    def operator(self) -> Operator:
        """How to speak to it as its operator."""
        written = read_operator(self._folder / "cloud" / "operator.json")
        return Operator(url=self.url, token=written.token, targets_key=str(self.keys / "targets.pem"), ca=written.ca)

    def _where(self) -> tuple[str, ...]:
        return ("--dir", str(self._folder / "cloud"))


def write_stand_in(folder: Path, *, version: str, size_bytes: int, seed: int = 0) -> Path:
    """A bundle of the right form and size whose model is noise: it travels like any other, and nothing runs it."""
    import numpy as np

    rng = random.Random(f"{seed}.{version}")  # noqa: S311 - a simulation, repeated by its seed
    inputs = to_npy(np.zeros((_GOLDEN, 4), np.float32))
    outputs = to_npy(np.full((_GOLDEN, len(_LABELS)), 1 / len(_LABELS), np.float32))
    model = rng.randbytes(max(1, size_bytes - len(inputs) - len(outputs)))
    measured = Measured(
        accuracy=1.0,
        agreement=1.0,
        max_abs_error=0.0,
        mean_abs_error=0.0,
        latency_p50_ms=1.0,
        latency_p99_ms=1.0,
        peak_memory_bytes=1_000_000,
        samples=_GOLDEN,
        measured_on="nothing: a simulation's stand-in",
    )
    variant = Variant(
        file=digest(model),
        engine=EngineName.LITERT,
        precision=Precision.FLOAT32,
        size_bytes=len(model),
        tensors={"x": "x", "scores": "scores"},
        measured=measured,
    )
    files = {digest(data): data for data in (inputs, outputs, model)}
    manifest = Manifest(
        name="simulated",
        version=version,
        labels=_LABELS,
        input=InputSpec("x", Modality.TENSOR, (1, 4), "NC", (0.0, 1.0)),
        preprocess=(),
        output=Classification(scores="scores", activation=Activation.NONE),
        variants=(variant,),
        golden=Golden(
            digest(inputs),
            digest(outputs),
            _GOLDEN,
            {Precision.FLOAT32: Tolerance(max_abs_error=1e-4, mean_abs_error=1e-5, min_agreement=1.0)},
        ),
        files=entries(files.values()),
        lineage=Lineage(recipe={"kind": "simulated"}, data_sha256={}, libraries={}),
    )
    path = folder / f"simulated-{version}{SUFFIX}"
    write_bundle(path, manifest, files)
    return path
