"""What a search came to, as it stands in OUT/front.json."""

import msgspec

from edgeloop.contracts.codec import SCHEMA
from edgeloop.toolchain.compress.front import Candidate
from edgeloop.toolchain.package import Bounds


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """The source itself, on the same held-out samples. accuracy: 1.0 where data has no labels (agreement then
    stands in for accuracy everywhere). latency_p50_ms: here, in the same turns as the candidates'; of a Keras model
    as the float LiteRT file that it becomes; None for a format that no engine runs.
    """

    format: str
    size_bytes: int
    accuracy: float
    samples: int
    latency_p50_ms: float | None = None
    multiply_adds: int | None = None
    peak_memory_bytes: int | None = None


class CompressReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole. search_s: of the budget for trials, over all sittings; spent_s: with what measuring took. failures:
    trials that gave no model, with their reasons."""

    model: str
    profile: str
    bounds: Bounds
    seed: int
    trials: int
    spent_s: float
    baseline: Baseline
    candidates: tuple[Candidate, ...]
    failures: tuple[str, ...] = ()
    search_s: float = 0.0
    schema: int = SCHEMA
