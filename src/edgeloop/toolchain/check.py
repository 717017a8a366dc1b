"""Prove a variant: against the float model sample by sample, and measured in a clean process.

The same Predictor as on devices does the work: what was verified is what runs.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import Bundle, write_bundle
from edgeloop.contracts.errors import Refused
from edgeloop.contracts.manifest import Activation, Measured, Variant
from edgeloop.runtime.footprint import Footprint
from edgeloop.runtime.postprocess import probabilities
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.profile import describe, this_machine
from edgeloop.runtime.replay import replay
from edgeloop.toolchain.data.dataset import Part

_FOOTPRINT_TIMEOUT_S = 120


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """A variant beside the float model over real samples. Errors are of probabilities."""

    samples: int
    accuracy: float
    accuracy_float: float
    agreement: float
    max_abs_error: float
    mean_abs_error: float


def parity(predictor: Predictor, part: Part, expected_scores: NDArray[np.float32], activation: Activation) -> Parity:
    """Run every sample through the runtime and compare. expected_scores: (N, labels), the float model's."""
    made = np.concatenate([predictor.run(predictor.tensor(image))[0] for image in part.inputs])
    error = np.abs(probabilities(made, activation) - probabilities(expected_scores, activation))
    predicted, expected = made.argmax(axis=1), expected_scores.argmax(axis=1)
    return Parity(
        samples=len(part),
        accuracy=float((predicted == part.labels).mean()),
        accuracy_float=float((expected == part.labels).mean()),
        agreement=float((predicted == expected).mean()),
        max_abs_error=float(error.max()),
        mean_abs_error=float(error.mean()),
    )


def measure(bundle: Bundle, variant: Variant, part: Part, expected_scores: NDArray[np.float32]) -> Variant:
    """The variant with its measurements. Raises Refused if its golden samples do not replay within tolerance."""
    predictor = Predictor(bundle, variant)
    try:
        proof = replay(bundle, variant, predictor)
        if proof.failure is not None:
            raise Refused(f"{variant.engine} {variant.precision} does not hold to the float model: {proof.failure}")
        found = parity(predictor, part, expected_scores, bundle.manifest.output.activation)
    finally:
        predictor.close()
    foot = footprint(bundle)
    measured = Measured(
        accuracy=found.accuracy,
        agreement=found.agreement,
        max_abs_error=found.max_abs_error,
        mean_abs_error=found.mean_abs_error,
        latency_p50_ms=foot.latency_p50_ms,
        latency_p99_ms=foot.latency_p99_ms,
        peak_memory_bytes=foot.peak_memory_bytes,
        samples=found.samples,
        measured_on=describe(this_machine()),
    )
    return msgspec.structs.replace(variant, measured=measured)


def footprint(bundle: Bundle) -> Footprint:
    """Latency and peak memory of a one-variant bundle in a process of its own, where no toolchain weighs in."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "draft.edgeloop"
        write_bundle(
            path, bundle.manifest, {entry.sha256: bundle.read(entry.sha256) for entry in bundle.manifest.files}
        )
        done = subprocess.run(  # noqa: S603 - our own module on our own file
            [sys.executable, "-m", "edgeloop.runtime.footprint", str(path)],
            capture_output=True,
            timeout=_FOOTPRINT_TIMEOUT_S,
            check=False,
        )
    if done.returncode != 0:
        raise Refused(f"the variant does not run in a clean process: {done.stderr.decode(errors='replace')[-500:]}")
    return msgspec.json.decode(done.stdout, type=Footprint)
