"""The manifest: everything a runtime must know to run a bundle the way it was proven.

No step depends on a library's default: every parameter that changes a number stands here. The types of input,
preprocessing, output, golden samples, drift reference and budget forbid unknown fields, so an older runtime refuses
a bundle that it would run wrongly; the manifest itself and descriptive types ignore them. Neighbours:
`bundle.archive` writes and reads it, `runtime` obeys it, `toolchain` fills it in.
"""

from enum import StrEnum
from typing import Annotated, Any

import msgspec

from edgeloop.contracts.codec import SCHEMA
from edgeloop.contracts.names import BundleRef, Name, Sha256, Version
from edgeloop.contracts.output import Output, Task
from edgeloop.contracts.preprocess import Step
from edgeloop.contracts.strict import Positive, Share, Strict


class Modality(StrEnum):
    """What kind of thing goes in."""

    IMAGE = "image"
    SOUND = "sound"
    SERIES = "series"
    TENSOR = "tensor"


class EngineName(StrEnum):
    """What executes a variant."""

    LITERT = "litert"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Precision(StrEnum):
    """How a variant's numbers are stored and computed.

    Plain intN: weights of N bits and integer activations of 8, so integer arithmetic throughout; int16 is weights
    of 8 and activations of 16. _weights: only stored so, computed in float. _dynamic: activations are quantized as
    they come. mixed: layer by layer.
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT16 = "int16"
    INT8 = "int8"
    INT8_DYNAMIC = "int8_dynamic"
    INT8_WEIGHTS = "int8_weights"
    INT4 = "int4"
    INT4_DYNAMIC = "int4_dynamic"
    INT4_WEIGHTS = "int4_weights"
    MIXED = "mixed"


class InputSpec(Strict, frozen=True):
    """The model's one input, as the source model names and shapes it.

    shape: with the batch axis, which is 1. layout: one letter an axis. value_range: what the tensor holds
    after preprocessing. rate_hz: samples a second of a sound, as the steps take them. channels: the columns of a
    series, by name and in order, where its source has names.
    """

    name: str
    modality: Modality
    shape: tuple[Positive, ...]
    layout: str
    value_range: tuple[float, float]
    dtype: str = "float32"
    rate_hz: Positive | None = None
    channels: tuple[str, ...] = ()


class Measured(msgspec.Struct, frozen=True):
    """What was measured of a variant, and on what.

    accuracy: share of right labels on the held-out set, None where there were none to judge by. agreement: share of
    samples on which it gives the float model's label. max_abs_error, mean_abs_error: of probabilities against the
    float model.
    """

    accuracy: Share | None
    agreement: Share
    max_abs_error: float
    mean_abs_error: float
    latency_p50_ms: float
    latency_p99_ms: float
    peak_memory_bytes: int
    samples: int
    measured_on: str

    @property
    def share_right(self) -> float:
        """The accuracy, where it is known that there is one. Raises ValueError if there is none."""
        if self.accuracy is None:
            raise ValueError("this variant was measured without labels")
        return self.accuracy


class RecipeStep(msgspec.Struct, frozen=True):
    """One step of the toolchain and all its parameters. kind: quantize, prune, distil, transfer, convert, ...

    model: the file name of the model that the step was given; model_sha256: of that file. data_sha256: of the samples
    that it learnt from or calibrated with; empty where it took none, or the lineage names them as a whole.
    """

    kind: str
    recipe: dict[str, Any]
    model: str = ""
    model_sha256: str = ""
    data_sha256: str = ""


class Variant(msgspec.Struct, frozen=True):
    """One file for one engine at one precision.

    tensors: from the manifest's tensor names to the names in this file, for inputs and outputs alike. steps: what
    made it from the model that the bundle's golden outputs come from, oldest first.
    """

    file: Sha256
    engine: EngineName
    precision: Precision
    size_bytes: Positive
    tensors: dict[str, str]
    measured: Measured | None = None
    steps: tuple[RecipeStep, ...] = ()


class Tolerance(Strict, frozen=True):
    """How far a variant may lie from the float model on the golden samples.

    Errors are of what `Golden.outputs` holds; min_agreement is the share of samples with the same decision.
    """

    max_abs_error: float
    mean_abs_error: float
    min_agreement: Share


class Golden(Strict, frozen=True):
    """Real inputs with the float model's answers, replayed before a bundle is trusted.

    inputs: .npy, uint8, int16 or float32, (count, ...) as they come before preprocessing. outputs: .npy, float32,
    (count, K), what the task decides by: probabilities of a classifier, boxes and scores of a detector as the model
    gives them, values of a regression, an anomaly's error, an embedding, pixel scores.
    """

    inputs: Sha256
    outputs: Sha256
    count: Annotated[int, msgspec.Meta(ge=16)]
    tolerance: dict[Precision, Tolerance]


class DriftReference(Strict, frozen=True):
    """What clean inputs look like to this model, so that a device can tell when its own do not.

    class_means: .npy float32 (labels, D), mean features a class. feature_std: .npy float32 (D,).
    distance_*, energy_*: per label, mean and standard deviation on clean held-out data of the feature distance
    to the predicted class and of the energy -logsumexp(logits).
    Source of the energy score: Liu et al. 2020 (arXiv 2010.03759), eq. 4.
    """

    class_means: Sha256
    feature_std: Sha256
    distance_mean: tuple[float, ...]
    distance_std: tuple[float, ...]
    energy_mean: tuple[float, ...]
    energy_std: tuple[float, ...]


class Budget(Strict, frozen=True, omit_defaults=True):
    """What a device must keep to, or refuse the bundle. None means no bound, and is not written.

    max_peak_memory_bytes: of a process that does nothing but answer, as `Measured` has it.
    """

    max_latency_p50_ms: float | None = None
    max_peak_memory_bytes: Positive | None = None


MOST_ENTRIES = 4096
"""Answers that a cache keeps: two megabytes of thumbnails, all of which each new image is compared with."""


class Reuse(Strict, frozen=True, kw_only=True):
    """When an earlier answer may stand for an input that is not computed.

    entries, max_age_s: of the answers that are kept. near: how far two images may lie apart and still be taken for
    the same, as the largest difference between any two cells of their thumbnails, in shares of the full range; 0.0
    for exactly the same only. A thumbnail is 16 by 16 means of grey values. sure: the margin (see Prediction) that an
    answer needs to stand for what is near: an unsure one is the first to change with the picture's noise.
    """

    entries: Annotated[int, msgspec.Meta(ge=1, le=MOST_ENTRIES)] = 64
    max_age_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    near: Share = 0.02
    sure: Share = 0.05


class Lineage(msgspec.Struct, frozen=True):
    """Where a bundle comes from: enough to make it again.

    recipe: how the source model and its data came about. steps: what was done to the source model, oldest first.
    """

    recipe: dict[str, str | int | float | bool]
    data_sha256: dict[str, Sha256]
    libraries: dict[str, str]
    parent: str | None = None
    steps: tuple[RecipeStep, ...] = ()


class FileEntry(msgspec.Struct, frozen=True):
    """One content-addressed file of the bundle."""

    sha256: Sha256
    size_bytes: Annotated[int, msgspec.Meta(ge=0)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle's description; `files` lists every file of the archive but the manifest itself."""

    name: Name
    version: Version
    labels: tuple[str, ...]
    input: InputSpec
    preprocess: tuple[Step, ...]
    output: Output
    variants: tuple[Variant, ...]
    golden: Golden
    files: tuple[FileEntry, ...]
    lineage: Lineage
    reference: DriftReference | None = None
    budget: Budget = Budget()
    reuse: Reuse = Reuse()
    schema: int = SCHEMA

    @property
    def task(self) -> Task:
        """What the model is for."""
        return Task(str(self.output.__struct_config__.tag))

    @property
    def shared_files(self) -> tuple[str, ...]:
        """What a device needs besides a variant, by hash."""
        reference = self.reference
        drift = () if reference is None else (reference.class_means, reference.feature_std)
        return (self.golden.inputs, self.golden.outputs, *drift)

    @property
    def ref(self) -> BundleRef:
        """NAME@VERSION of this bundle."""
        return BundleRef(self.name, self.version)
