"""What the runtime answers, and what a device writes down about it."""

import msgspec

from edgeloop.contracts.output import Task


class Scored(msgspec.Struct, frozen=True):
    """A label with its probability; of a regression, with its value; of an embedding, with its distance."""

    label: str
    score: float


class Box(msgspec.Struct, frozen=True):
    """One thing found: where its left, top, right and bottom edges are, in pixels of the original image."""

    label: str
    score: float
    left: float
    top: float
    right: float
    bottom: float


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """The runtime's answer for one input.

    label: the decision; None where there is none: no score reaches the manifest's threshold, no box was found, no
    enrolled example is near enough; always None of a regression. score: how sure or how much: the best label's
    probability or box's score, the share of pixels that the most frequent label has, 1 / (1 + distance) to the
    nearest example, an anomaly's error, the first value of a regression. margin: how far from another decision, 0 to
    1: best minus second-best probability; of a detection's least sure box and of an anomaly, from the threshold; 1.0
    of a regression.
    top: the best labels; every value of a regression; the distances to the nearest labels; shares of pixels.

    energy: -logsumexp of the raw scores, None when they are probabilities already. novelty: distance to the clean
    data's class means in standard deviations, None when the bundle ships no reference. latency_ms: preprocessing,
    inference and postprocessing together. cached: the answer was computed for an earlier input, the same or as near
    as the manifest allows. boxes: best first. mask_png: a grey PNG of the original image's size; a pixel is the index
    of its label, 255 for none. vector: an embedding, for enrolling. at_s: of a stream, when the input began, in
    seconds from the stream's start. source: what a stream calls the input.
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
    task: Task = Task.CLASSIFICATION
    cached: bool = False
    boxes: tuple[Box, ...] = ()
    mask_png: bytes | None = None
    vector: tuple[float, ...] = ()
    at_s: float | None = None
    source: str = ""
