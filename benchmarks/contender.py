"""A model file that stands for one tool: what runs it, how big it is, what it answers.

All are asked through edgeloop's own runtime, one sample at a time as on a device. Neighbours: `latency` times
contenders, `peers` and `works` make them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.latency import latency_ms
from benchmarks.rows import Standing
from edgeloop.toolchain.source.engine import ENGINES, wrap_runnable
from edgeloop.toolchain.source.model import Format


@dataclass(frozen=True)
class Contender:
    """One tool's model. data: the file's bytes; OpenVINO's two files are one .openvino file, its graph deflated."""

    name: str
    form: Format
    data: bytes

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return len(self.data)

    def scores(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, classes) real scores for real inputs (N, ...)."""
        return wrap_runnable(self.data, self.form, name=self.name).scores(inputs)

    def accuracy(self, inputs: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Share of samples whose highest score is their label's."""
        return float((self.scores(inputs).argmax(axis=1) == labels).mean())


def measure_latency(contenders: Mapping[str, Contender], sample: NDArray[np.float32]) -> dict[str, float]:
    """Median milliseconds an inference by key, all in one run; sample: one real input."""
    return latency_ms({key: (ENGINES[one.form], one.data) for key, one in contenders.items()}, sample)


def standings(
    contenders: Mapping[str, Contender], inputs: NDArray[np.float32], labels: NDArray[np.int64]
) -> dict[str, Standing]:
    """Where each stands: judged on the same samples, timed in one run."""
    right = {key: one.accuracy(inputs, labels) for key, one in contenders.items()}
    took_ms = measure_latency(contenders, inputs[:1])
    return {
        key: Standing(size_bytes=one.size_bytes, latency_ms=took_ms[key], accuracy=right[key])
        for key, one in contenders.items()
    }
