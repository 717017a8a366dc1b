"""How a model's output tensors become a prediction: one type a task, each with all its parameters.

Tensor names are the manifest's own; a variant says what they are called in its file. Neighbours: `contracts.manifest`
holds one of these, `runtime.output` obeys it.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from edgeloop.contracts.names import Sha256
from edgeloop.contracts.strict import Positive, Share, Strict

NotNegative = Annotated[int, msgspec.Meta(ge=0)]


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


class OffsetOrder(StrEnum):
    """In which order a box's numbers come: xywh x, y, width, height; yxhw y, x, height, width."""

    XYWH = "xywh"
    YXHW = "yxhw"


class SsdAnchors(Strict, frozen=True, tag="ssd", tag_field="decode", kw_only=True):
    """Offsets from anchors: centre = anchor centre + offset * center_variance * anchor size; size = anchor size *
    exp(offset * size_variance), or anchor size * offset * size_variance if linear_size. Offsets are in this order.

    The anchors: for each of feature_maps (rows, columns), row by row, cell by cell, one a size of sizes_px, square in
    pixels of the input; or one a (width, height) of shapes_px, in its place. They lie at (cell + cell_share) * cell
    size; cells fill the input evenly or, with strides_px, are so many pixels wide and high, one number a map. clip:
    anchors are cut to 0..1. extra: numbers that follow the four of a box, such as key points, and are left out.
    Source: Liu et al. 2016 (arXiv 1512.02325), 2.2; variances as in its authors' code. yxhw, shapes: TensorFlow's
    Object Detection API; strides_px: torchvision's SSD, RetinaFace; linear_size and extra: MediaPipe's BlazeFace.
    """

    feature_maps: tuple[tuple[Positive, Positive], ...]
    sizes_px: tuple[tuple[float, ...], ...] = ()
    shapes_px: tuple[tuple[tuple[float, float], ...], ...] = ()
    strides_px: tuple[Annotated[float, msgspec.Meta(gt=0)], ...] = ()
    cell_share: float = 0.5
    center_variance: float = 0.1
    size_variance: float = 0.2
    linear_size: bool = False
    order: OffsetOrder = OffsetOrder.XYWH
    extra: NotNegative = 0
    clip: bool = True


class Corners(StrEnum):
    """How four numbers say a box: xyxy left, top, right, bottom; yxyx top, left, bottom, right; cxcywh centre and
    size; xywh left, top and size."""

    XYXY = "xyxy"
    YXYX = "yxyx"
    CXCYWH = "cxcywh"
    XYWH = "xywh"


class PlainBoxes(Strict, frozen=True, tag="boxes", tag_field="decode"):
    """The model decodes by itself: (1, N, 4) boxes in the input's pixels, or in shares of its sides if normalized.

    kinds: name of a (1, N) tensor of each box's class, where the model picked it; scores are (1, N) then, and what
    stands beyond the model's own count has a score of 0. Source: TFLite_Detection_PostProcess of TensorFlow's Object
    Detection API (yxyx, normalized).
    """

    corners: Corners
    normalized: bool
    kinds: str | None = None


class BoxRows(Strict, frozen=True, tag="rows", tag_field="decode", kw_only=True):
    """The model decodes and picks by itself, into one tensor (1, N, 6 + extra): four numbers of a box, its score, its
    class. extra: numbers that follow and are left out, such as a mask's coefficients.

    `scores` and `boxes` name this one tensor. Source: Ultralytics' export of YOLOv10 and YOLO26 (xyxy, in pixels).
    """

    corners: Corners
    normalized: bool
    extra: NotNegative = 0


class CentreSize(StrEnum):
    """What a centre head says of a box's size: cells, pixels of the input, or the logarithm of cells."""

    CELLS = "cells"
    PIXELS = "pixels"
    LOG_CELLS = "log_cells"


class CentreOrder(StrEnum):
    """In which order a centre head's numbers come: xy x before y and width before height, yx the other way round."""

    XY = "xy"
    YX = "yx"


class CentreHeads(Strict, frozen=True, tag="centre", tag_field="decode", kw_only=True):
    """Heat maps of object centres: scores (1, H, W, labels), boxes (1, H, W, 2) width and height as `size` says, and
    offsets (1, H, W, 2) x, y of the centre within its cell; (1, labels, H, W) and (1, 2, H, W) if channels_first.
    A cell counts where it is the highest of its 3x3 neighbours or, without peaks, always. stride_px: input pixels a
    cell. cell_share: is added to offsets, 0.5 where they count from a cell's middle.

    Source: Zhou et al. 2019 (arXiv 1904.07850), 4, whose code is channels_first; channels_first, log_cells, yx,
    cell_share 0.5, no peaks: CenterFace (arXiv 1911.03599), its authors' code.
    """

    offsets: str
    stride_px: Positive
    channels_first: bool = False
    size: CentreSize = CentreSize.CELLS
    order: CentreOrder = CentreOrder.XY
    cell_share: float = 0.0
    peaks: bool = True


class YoloHeads(Strict, frozen=True, tag="yolo", tag_field="decode", kw_only=True):
    """One tensor of (1, N, 4 + labels), or (1, 4 + labels, N) if transposed: centre, size, in the input's pixels, and
    a score for each label; with objectness, (1, N, 5 + labels), the fifth number multiplies the scores.

    normalized: centre and size are in shares of the input's sides. extra: numbers that follow the scores and are left
    out: a mask's coefficients, key points.
    `scores` and `boxes` name this one tensor. Source: Ultralytics' export of YOLOv5 (objectness), and of YOLOv8 and
    YOLO11 (transposed), which for LiteRT is normalized.
    """

    objectness: bool
    transposed: bool
    normalized: bool = False
    extra: NotNegative = 0


Decode = SsdAnchors | PlainBoxes | BoxRows | CentreHeads | YoloHeads


class Detection(Strict, frozen=True, tag="detection", tag_field="task", kw_only=True):
    """Boxes with labels, in pixels of the original image.

    boxes, scores: tensor names; scores are (1, N, classes) unless the decoding says otherwise. background: which class
    of the score tensor means nothing there, and has no label in the manifest; None if there is none. threshold: of a
    box's score. iou_threshold: of two boxes of one label that overlap more (intersection over union), the better stays.
    one_label: a place is a box of its best label alone, as Ultralytics' predict takes it; else of each label that
    reaches the threshold. clip_first: boxes are cut at the image's edges before they are compared, as torchvision's
    detectors do; else afterwards.
    """

    boxes: str
    scores: str
    activation: Activation
    decode: Decode
    threshold: Share
    iou_threshold: Share
    background: NotNegative | None = None
    max_boxes: Positive = 100
    one_label: bool = False
    clip_first: bool = False


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

    vector: name of the (1, D) tensor, or of one with more axes of 1. The manifest has no labels: they come from
    examples, those that the bundle ships and those enrolled where it runs.
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
    is below the threshold has none. single: the tensor has one channel, the score of the second of two labels, and
    the first has what is left to 1; not with softmax.
    """

    scores: str
    activation: Activation
    channels_first: bool = False
    threshold: Share = 0.0
    single: bool = False


Output = Classification | Detection | Regression | Anomaly | Embedding | Segmentation
