"""What a bundle costs on this machine: latency and peak memory, in a process that does nothing else.

Run as `python -m edgeloop.runtime.footprint BUNDLE`; prints one line of JSON.
"""

import resource
import sys
from pathlib import Path

import msgspec
import numpy as np

from edgeloop.bundle.archive import open_bundle
from edgeloop.bundle.arrays import from_npy
from edgeloop.runtime.predictor import Predictor

_WARM_UP_RUNS = 20
_RUNS = 300


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """Latency from a decoded image to the prediction, one thread; peak memory of the whole process."""

    latency_p50_ms: float
    latency_p99_ms: float
    peak_memory_bytes: int


def take_footprint(path: str) -> Footprint:
    """Load the bundle's first variant and time it over its golden samples."""
    bundle = open_bundle(path)
    predictor = Predictor(bundle, bundle.manifest.variants[0])
    inputs = from_npy(bundle.read(bundle.manifest.golden.inputs), what="golden inputs")
    for index in range(_WARM_UP_RUNS):
        predictor.predict(inputs[index % len(inputs)])
    latency_ms = [predictor.predict(inputs[index % len(inputs)]).latency_ms for index in range(_RUNS)]
    return Footprint(
        latency_p50_ms=float(np.percentile(latency_ms, 50)),
        latency_p99_ms=float(np.percentile(latency_ms, 99)),
        peak_memory_bytes=_peak_memory_bytes(),
    )


def _peak_memory_bytes() -> int:
    """The most resident memory so far. Linux's VmHWM where there is one: ru_maxrss counts the parent's, from
    before exec, too."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(take_footprint(sys.argv[1])) + b"\n")
