"""What the runtime answers, and what a device writes down about it."""

import msgspec


class Scored(msgspec.Struct, frozen=True):
    """A label with its probability."""

    label: str
    score: float


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """The runtime's answer for one input.

    label: None when no score reaches the manifest's threshold. score: probability of the best label. margin:
    best minus second-best probability. energy: -logsumexp of the raw scores, None when they are probabilities
    already. novelty: distance to the clean data's class means in standard deviations, None when the bundle
    ships no reference. latency_ms: preprocessing, inference and postprocessing together.
    """

    label: str | None
    score: float
    margin: float
    top: tuple[Scored, ...]
    latency_ms: float
    bundle: str
    engine: str
    precision: str
    energy: float | None = None
    energy_z: float | None = None
    novelty: float | None = None
