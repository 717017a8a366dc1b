"""What a dataset is: samples as a device would see them, in four parts that never mix, and how a model takes them.

*fit* trains; *validation* picks golden samples and drift statistics and is not trained on; *holdout* judges and is
seen by no training and no device; *field* is what devices see. Neighbours: `open` reads datasets by name or path,
the other modules here know one form each.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import Grey, Interpolation, Resize, Scale, Step
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.preprocess import CHANNELS_FIRST, preprocess

UNLABELLED = -1
"""The label of a sample that has none."""

_HOLDOUT_SHARE, _FIELD_SHARE, _VALIDATION_SHARE = 0.20, 0.36, 0.06
_MOST_HOLDOUT, _MOST_FIELD, _MOST_VALIDATION = 5_000, 4_000, 2_000
_FEWEST_VALIDATION = 32

FEWEST_TO_SPLIT = 200
"""Below this many samples a dataset is not cut into parts."""


@dataclass(frozen=True)
class Part:
    """Samples before preprocessing, with class indices.

    inputs: images (N, H, W) or (N, H, W, 3) uint8, or arrays (N, ...) float32. labels: (N,) int64, UNLABELLED
    where a sample has none.
    """

    inputs: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, count: int) -> "Part":
        """The first `count`."""
        return Part(self.inputs[:count], self.labels[:count])

    def labelled(self) -> "Part":
        """The samples that have a label."""
        known = self.labels != UNLABELLED
        return Part(self.inputs[known], self.labels[known])


@dataclass(frozen=True)
class Dataset:
    """The four parts. label_names: by class index, empty for unlabelled data. sha256: of everything, in its
    original order. modality: whether inputs are images or arrays."""

    name: str
    label_names: tuple[str, ...]
    fit: Part
    validation: Part
    holdout: Part
    field: Part
    sha256: str
    modality: Modality = Modality.IMAGE

    @property
    def is_labelled(self) -> bool:
        """Whether its samples belong to named classes."""
        return bool(self.label_names)


def split(
    name: str,
    inputs: NDArray[Any],
    labels: NDArray[np.int64],
    *,
    label_names: tuple[str, ...],
    sha256: str,
    seed: int,
    modality: Modality = Modality.IMAGE,
) -> Dataset:
    """Cut into the four parts after a seeded shuffle. Raises InvalidInput if there is too little to cut."""
    total = len(labels)
    if total < FEWEST_TO_SPLIT:
        raise InvalidInput(
            f"dataset {name!r} has {total} samples; at least {FEWEST_TO_SPLIT} are needed to train and to judge with "
            "(16 are enough to calibrate with)"
        )
    order = np.random.default_rng(seed).permutation(total)
    sizes = (
        min(_MOST_HOLDOUT, int(total * _HOLDOUT_SHARE)),
        min(_MOST_FIELD, int(total * _FIELD_SHARE)),
        # Golden samples come from it, and there must be 16 or more.
        max(_FEWEST_VALIDATION, min(_MOST_VALIDATION, int(total * _VALIDATION_SHARE))),
    )
    holdout, field, validation, fit = np.split(order, np.cumsum(sizes))

    def part(indices: NDArray[np.int64]) -> Part:
        return Part(np.ascontiguousarray(inputs[indices]), labels[indices])

    return Dataset(
        name, label_names, part(fit), part(validation), part(holdout), part(field), sha256, modality=modality
    )


def field_to_fit(dataset: Dataset) -> Dataset:
    """The same with an empty field part: where no device is to be shown any of it, all that judges nothing trains."""
    fit, field = dataset.fit, dataset.field
    more = Part(np.concatenate([fit.inputs, field.inputs]), np.concatenate([fit.labels, field.labels]))
    return replace(dataset, fit=more, field=field.take(0))


@dataclass(frozen=True)
class Prepared:
    """A dataset beside the model that takes it: spec and steps are what a manifest would say."""

    dataset: Dataset
    spec: InputSpec
    steps: tuple[Step, ...]

    def tensors(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Samples (N, ...) as the model takes them: (N, *spec.shape[1:]) float32, preprocessed as on a device.

        Raises InvalidInput if one holds NaN or infinity.
        """
        if self.spec.modality is Modality.TENSOR and not self.steps:
            return self._finite(np.asarray(inputs, np.float32))
        scale = self.steps[-1] if self.steps and isinstance(self.steps[-1], Scale) else None
        height_px, width_px, colours = _sizes(self.spec) if self.spec.modality is Modality.IMAGE else (0, 0, 0)
        channels = 1 if inputs.ndim == 3 else inputs.shape[-1]
        if scale is not None and (*inputs.shape[1:3], channels) == (height_px, width_px, colours):
            # Same arithmetic as the runtime's, for all samples at once: training asks for them every epoch.
            pixels = inputs if inputs.ndim == 4 else inputs[..., np.newaxis]
            made = pixels.astype(np.float32) * np.float32(scale.factor) + np.float32(scale.offset)
            return np.ascontiguousarray(np.moveaxis(made, -1, 1) if self.spec.layout == CHANNELS_FIRST else made)
        if len(inputs) == 0:
            return np.zeros((0, *self.spec.shape[1:]), np.float32)
        return np.concatenate([preprocess(one, self.steps, self.spec) for one in inputs])

    def _finite(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(inputs).all():
            bad = int((~np.isfinite(inputs.reshape(len(inputs), -1))).any(axis=1).sum())
            raise InvalidInput(f"{bad} of {len(inputs)} samples of {self.dataset.name} hold NaN or infinity; clean it")
        return inputs


def prepare(dataset: Dataset, taken: TensorSpec, *, value_range: tuple[float, float] = (0.0, 1.0)) -> Prepared:
    """How `dataset` is brought to a model input `taken`, shape with batch axis 1.

    value_range: what 0..255 of an image become; arrays pass as they are. Raises InvalidInput if they do not fit.
    """
    if dataset.modality is Modality.IMAGE:
        return _prepare_images(dataset, taken, value_range)
    shape = dataset.fit.inputs.shape[1:]
    if tuple(taken.shape[1:]) != shape:
        raise InvalidInput(
            f"input {taken.name!r} of the model takes {tuple(taken.shape[1:])}, samples of {dataset.name} are {shape}"
        )
    low, high = float(dataset.fit.inputs.min(initial=0)), float(dataset.fit.inputs.max(initial=0))
    spec = InputSpec(
        name=taken.name,
        modality=Modality.TENSOR,
        shape=tuple(taken.shape),
        layout="n" + "tcxyz"[: len(shape)],
        value_range=(low, high),
    )
    return Prepared(dataset, spec, ())


def sha256_of(data: object) -> str:
    """Of the dataset behind what a step was given; empty for plain tensors, or none."""
    return data.dataset.sha256 if isinstance(data, Prepared) else ""


def _prepare_images(dataset: Dataset, taken: TensorSpec, value_range: tuple[float, float]) -> Prepared:
    shape = tuple(taken.shape)
    layout = _layout(taken, dataset.fit.inputs.shape[1:3])
    low, high = value_range
    spec = InputSpec(
        name=taken.name, modality=Modality.IMAGE, shape=shape, layout=layout, value_range=(float(low), float(high))
    )
    height_px, width_px, channels = _sizes(spec)
    colours = 1 if dataset.fit.inputs.ndim == 3 else dataset.fit.inputs.shape[-1]
    if colours < channels:
        raise InvalidInput(
            f"the model takes colour images {shape}, those of {dataset.name} are grey; a folder of images that is "
            "opened for the model (open_dataset(..., taken=its input)) is made colour"
        )
    steps: tuple[Step, ...] = (
        *((Grey(),) if channels == 1 else ()),
        Resize(height_px=height_px, width_px=width_px, interpolation=Interpolation.AREA),
        Scale(factor=(high - low) / 255, offset=low),
    )
    return Prepared(dataset, spec, steps)


def image_sizes(taken: TensorSpec) -> tuple[int, int, int]:
    """Height, width and channels of the images that a model input takes. Raises InvalidInput if it takes none."""
    return _moved(tuple(taken.shape), _layout(taken, ()))


def _layout(taken: TensorSpec, size_px: tuple[int, ...]) -> str:
    """Where the channels are: on the one axis of size 1 or 3; where two are, on that which leaves the data's size."""
    shape = tuple(taken.shape)
    last, first = len(shape) == 4 and shape[3] in (1, 3), len(shape) == 4 and shape[1] in (1, 3)
    if first and (not last or shape[2:] == size_px):
        return CHANNELS_FIRST
    if last:
        return "nhwc"
    raise InvalidInput(
        f"input {taken.name!r} of the model takes {shape}; images go into (1, height, width, 1), "
        "(1, height, width, 3), (1, 1, height, width) or (1, 3, height, width)"
    )


def _sizes(spec: InputSpec) -> tuple[int, int, int]:
    """Height, width and channels that an image model takes."""
    return _moved(spec.shape, spec.layout)


def _moved(shape: tuple[int, ...], layout: str) -> tuple[int, int, int]:
    _, first, second, third = shape
    return (second, third, first) if layout == CHANNELS_FIRST else (first, second, third)
