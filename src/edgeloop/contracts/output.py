"""How a model's output tensors become a prediction: one type a task, each with all its parameters.

Tensor names are the manifest's own; a variant says what they are called in its file. Neighbours: `contracts.manifest`
holds one of these, `runtime.output` obeys it.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from edgeloop.contracts.names import Sha256
from edgeloop.contracts.strict import Positive, Share, Strict


class Task(StrEnum):
    """What a bundle's model is for."""

    CLASSIFICATION = "classification"
    DETECTION = "detection"
    REGRESSION = "regression"
    ANOMALY = "anomaly"
    EMBEDDING = "embedding"
    SEGMENTATION = "segmentation"


class Activation(StrEnum):
    """What the runtime still applies to the score tensor to get probabilities."""

    NONE = "none"
    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"


class MedianOf(Strict, frozen=True, tag="median", tag_field="smooth"):
    """In a stream: each score or value is the median of the last k; fewer at the beginning."""

    k: Annotated[int, msgspec.Meta(ge=2, le=1000)]


class Consensus(Strict, frozen=True, tag="consensus", tag_field="smooth"):
    """In a stream: the label on which at least `at_least` of the last `of` answers agree, else none."""

    of: Annotated[int, msgspec.Meta(ge=2, le=1000)]
    at_least: Annotated[int, msgspec.Meta(ge=1, le=1000)]


Smoothing = MedianOf | Consensus


class Classification(Strict, frozen=True, tag="classification", tag_field="task"):
    """One label of the manifest's.

    scores: name of the (1, labels) tensor. features: name of the (1, D) tensor that novelty is measured in, or
    None when the model offers none. threshold: below this top score the label is None ("none of these").
    """

    scores: str
    activation: Activation
    features: str | None = None
    threshold: Share = 0.0
    top_k: Positive = 3
    smoothing: Smoothing | None = None


class SsdAnchors(Strict, frozen=True, tag="ssd", tag_field="decode", kw_only=True):
    """Offsets from anchors: centre = anchor centre + offset * center_variance * anchor size; size = anchor size *
    exp(offset * size_variance). Offsets are in the order (x, y, width, height).

    The anchors: for each of feature_maps (rows, columns), row by row, cell by cell, one a size of sizes_px at the
    cell's middle, square in pixels of the input. clip: anchors are cut to 0..1.
    Source: Liu et al. 2016 (arXiv 1512.02325), 2.2; variances as in its authors' code.
    """

    feature_maps: tuple[tuple[Positive, Positive], ...]
    sizes_px: tuple[tuple[float, ...], ...]
    center_variance: float = 0.1
    size_variance: float = 0.2
    clip: bool = True


class Corners(StrEnum):
    """How four numbers say a box: xyxy left, top, right, bottom; yxyx top, left, bottom, right; cxcywh centre and
    size; xywh left, top and size."""

    XYXY = "xyxy"
    YXYX = "yxyx"
    CXCYWH = "cxcywh"
    XYWH = "xywh"


class PlainBoxes(Strict, frozen=True, tag="boxes", tag_field="decode"):
    """The model decodes by itself: (1, N, 4) boxes in the input's pixels, or in shares of its sides if normalized."""

    corners: Corners
    normalized: bool


class CentreHeads(Strict, frozen=True, tag="centre", tag_field="decode", kw_only=True):
    """Heat maps of object centres: scores (1, H, W, labels), boxes (1, H, W, 2) width and height in cells, and
    offsets (1, H, W, 2) x, y of the centre within its cell. A cell counts where it is the highest of its 3x3
    neighbours. stride_px: input pixels a cell.

    Source: Zhou et al. 2019 (arXiv 1904.07850), 4.
    """

    offsets: str
    stride_px: Positive


class YoloHeads(Strict, frozen=True, tag="yolo", tag_field="decode", kw_only=True):
    """One tensor of (1, N, 4 + labels), or (1, 4 + labels, N) if transposed: centre, size, in the input's pixels, and
    a score for each label; with objectness, (1, N, 5 + labels), the fifth number multiplies the scores.

    `scores` and `boxes` name this one tensor. Source: Ultralytics' export of YOLOv5 (objectness) and YOLOv8.
    """

    objectness: bool
    transposed: bool


Decode = SsdAnchors | PlainBoxes | CentreHeads | YoloHeads


class Detection(Strict, frozen=True, tag="detection", tag_field="task", kw_only=True):
    """Boxes with labels, in pixels of the original image.

    boxes, scores: tensor names; scores are (1, N, classes). background: which class of the score tensor means
    nothing there, and has no label in the manifest; None if there is none. threshold: of a box's score.
    iou_threshold: of two boxes of one label that overlap more (intersection over union), the better stays.
    """

    boxes: str
    scores: str
    activation: Activation
    decode: Decode
    threshold: Share
    iou_threshold: Share
    background: Annotated[int, msgspec.Meta(ge=0)] | None = None
    max_boxes: Positive = 100


class Regression(Strict, frozen=True, tag="regression", tag_field="task", kw_only=True):
    """Numbers, one for each of the manifest's labels: tensor * factor + offset.

    value: name of the (1, labels) tensor. unit: of each, for people. agree_within: two answers that differ by no
    more count as the same when the golden samples are replayed.
    """

    value: str
    unit: tuple[str, ...]
    agree_within: Annotated[float, msgspec.Meta(gt=0)]
    factor: float = 1.0
    offset: float = 0.0
    smoothing: MedianOf | None = None


class ErrorKind(StrEnum):
    """How far a reconstruction lies from the input: mean of squares or of absolute differences."""

    MEAN_SQUARED = "mean_squared"
    MEAN_ABSOLUTE = "mean_absolute"


class Anomaly(Strict, frozen=True, tag="anomaly", tag_field="task", kw_only=True):
    """The manifest's two labels, normal first: the second where an autoencoder's error lies above the threshold.

    reconstruction: a tensor of the input's shape; the error is against the preprocessed input, as reals.
    """

    reconstruction: str
    error: ErrorKind
    threshold: Annotated[float, msgspec.Meta(gt=0)]
    smoothing: Smoothing | None = None


class Distance(StrEnum):
    """Between two embeddings: 1 - cosine of their angle, or Euclidean."""

    COSINE = "cosine"
    EUCLIDEAN = "euclidean"


class Enrolled(Strict, frozen=True):
    """Examples that a bundle ships: vectors, .npy float32 (N, D), and the label of each."""

    labels: tuple[str, ...]
    vectors: Sha256


class Embedding(Strict, frozen=True, tag="embedding", tag_field="task", kw_only=True):
    """The label of the nearest enrolled example, if it is nearer than the threshold.

    vector: name of the (1, D) tensor. The manifest has no labels: they come from examples, those that the bundle
    ships and those enrolled where it runs.
    """

    vector: str
    distance: Distance
    threshold: Annotated[float, msgspec.Meta(gt=0)]
    enrolled: Enrolled | None = None
    top_k: Positive = 3
    smoothing: Consensus | None = None


class Segmentation(Strict, frozen=True, tag="segmentation", tag_field="task", kw_only=True):
    """A label for each pixel of the original image.

    scores: name of the (1, H, W, labels) tensor, or (1, labels, H, W) if channels_first. A pixel whose best score
    is below the threshold has none.
    """

    scores: str
    activation: Activation
    channels_first: bool = False
    threshold: Share = 0.0


Output = Classification | Detection | Regression | Anomaly | Embedding | Segmentation
