"""Unstructured pruning: the smallest single weights become zero, on a schedule, and stay zero while the rest is fitted.

The file does not shrink and the arithmetic takes as long as before, since engines multiply by zero like by any number:
what is gained shows when the file is compressed, as in transit or in a bundle. The report says how much, and of what.
Neighbours: `structured` takes whole channels out, which shrinks both; `fitting` fits.
"""

import zlib
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np
import zstandard
from numpy.typing import NDArray

from edgeloop.contracts.errors import Refused
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.data.dataset import Prepared, sha256_of
from edgeloop.toolchain.fitting import FineTune, fine_tune
from edgeloop.toolchain.progress import Progress, silent, within
from edgeloop.toolchain.prune.settle import settle
from edgeloop.toolchain.prune.structured import (
    accuracy_or_none,
    graph_to_change,
    require_finite,
    require_teachable,
    teacher_of,
)
from edgeloop.toolchain.recipe import require_in_range
from edgeloop.toolchain.source.keras import plain_keras, wrap_keras
from edgeloop.toolchain.source.model import Model

_KERNELS = frozenset({"kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel"})
_ZSTD_LEVEL = 19
_DEFLATE_LEVEL = 9


class SparsifyRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to thin out. sparsity: share of each layer's kernel that becomes zero (a depthwise kernel, which is small
    and dear, stays).

    updates: times that weights are zeroed, each followed by fitting, the last by twice as much; images_seen: training
    samples shown in all; learning_rate: of Adam, from anew after each update. distil, temperature, teacher_weight: as
    for PruneRecipe.
    """

    sparsity: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.8
    updates: Annotated[int, msgspec.Meta(ge=1)] = 6
    images_seen: Annotated[int, msgspec.Meta(ge=0)] = 40_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    augment: bool = True
    distil: bool = False
    temperature: float = 4.0
    teacher_weight: float = 0.5
    seed: int = 0


class SparsifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What it gained after compression, and cost. sparsity: share of zeros among the kernels' weights.

    size_bytes_*: of the .keras file, about the same; zstd_*, deflate_*: of that file compressed (levels 19 and 9).
    accuracy_*: on validation data, None without labels.
    """

    sparsity_before: float
    sparsity_after: float
    weights: int
    size_bytes_before: int
    size_bytes_after: int
    zstd_bytes_before: int
    zstd_bytes_after: int
    deflate_bytes_before: int
    deflate_bytes_after: int
    accuracy_before: float | None
    accuracy_after: float | None


def sparsify(
    model: Model, recipe: SparsifyRecipe, data: Prepared, *, progress: Progress = silent
) -> tuple[Model, SparsifyReport]:
    """A network of the same shape, most of whose weights are zero.

    Raises InvalidInput if the model is none of Keras or the data has no labels to fit to, Refused if it has no kernel
    or holds NaN. Source: Zhu and Gupta 2017 (arXiv 1710.01878), eq. 1 and sec. 3; Han et al. 2015 (arXiv 1506.02626).
    """
    require_in_range(recipe)
    keras = import_keras()
    source = graph_to_change(model)
    require_teachable(source, data, images_seen=recipe.images_seen, distil=recipe.distil)
    require_finite(source)
    net = keras.models.clone_model(source)
    net.set_weights(source.get_weights())
    kernels = kernels_of(net)
    if not kernels:
        raise Refused(f"{model.name} has no convolution or dense layer: there is nothing to thin out")
    sparse_before, before = _zeros(kernels), accuracy_or_none(net, data)
    teacher = teacher_of(plain_keras(model)) if recipe.distil else None
    held = [kernel.constraint for kernel in kernels]
    for index in range(recipe.updates):
        share = scheduled(recipe.sparsity, sparse_before, (index + 1) / recipe.updates)
        for kernel, constraint in zip(kernels, held, strict=True):
            _zero(keras, kernel, share, constraint)
        how = _lesson(recipe, index, has_teacher=teacher is not None)
        if how is not None:
            told = within(progress, index / recipe.updates, (index + 1) / recipe.updates)
            fine_tune(net, data, how, teacher_scores=teacher, progress=told)
    for kernel, constraint in zip(kernels, held, strict=True):
        kernel.constraint = constraint
    settle(net, data, seed=recipe.seed)
    made = wrap_keras(keras.Model(net.input, net.output), name=model.name).after(
        "sparsify", recipe, before=model, data_sha256=sha256_of(data)
    )
    plain_before = wrap_keras(source, name=model.name).data
    return made, SparsifyReport(
        sparsity_before=sparse_before,
        sparsity_after=_zeros(kernels),
        weights=sum(int(np.prod(kernel.shape)) for kernel in kernels),
        size_bytes_before=len(plain_before),
        size_bytes_after=made.size_bytes,
        zstd_bytes_before=_zstd(plain_before),
        zstd_bytes_after=_zstd(made.data),
        deflate_bytes_before=_deflate(plain_before),
        deflate_bytes_after=_deflate(made.data),
        accuracy_before=before,
        accuracy_after=accuracy_or_none(net, data),
    )


def scheduled(final: float, first: float, progress: float) -> float:
    """The sparsity at a share `progress` of the way: fast while much is redundant, slow at the end.

    Source: Zhu and Gupta 2017 (arXiv 1710.01878), eq. 1.
    """
    return final + (min(first, final) - final) * (1 - progress) ** 3


def kernels_of(net: Any) -> list[Any]:
    """The weights that may be thinned out, each once; layers of models inside count."""
    found: dict[int, Any] = {}
    for layer in net.layers:
        mine = kernels_of(layer) if hasattr(layer, "layers") else []
        if not mine and not type(layer).__name__.startswith("Depthwise"):
            mine = [one for one in getattr(layer, "weights", ()) if one.name in _KERNELS - {"depthwise_kernel"}]
        found.update({id(one): one for one in mine})
    return list(found.values())


def _zero(keras: Any, kernel: Any, share: float, constraint: Callable[[Any], Any] | None) -> None:
    """Zero the smallest `share` of a kernel now, and after each step of the optimizer from here on."""
    values = kernel.numpy()
    count = round(share * values.size)
    mask: NDArray[np.float32] = np.ones(values.size, np.float32)
    mask[np.argsort(np.abs(values), axis=None, kind="stable")[:count]] = 0
    mask = mask.reshape(values.shape)
    kernel.assign(values * mask)

    def hold(updated: Any) -> Any:
        """What the optimizer applies after a step, through the hook for constraints."""
        held = updated if constraint is None else constraint(updated)
        return held * keras.ops.cast(mask, kernel.dtype)

    kernel.constraint = hold


def _lesson(recipe: SparsifyRecipe, index: int, *, has_teacher: bool) -> FineTune | None:
    share = recipe.images_seen // (recipe.updates + 1)
    images_seen = 2 * share if index == recipe.updates - 1 else share
    if not images_seen:
        return None
    return FineTune(
        images_seen=images_seen,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed + index,
        augment=recipe.augment,
        temperature=recipe.temperature,
        teacher_weight=recipe.teacher_weight if has_teacher else 0.0,
    )


def _zeros(kernels: list[Any]) -> float:
    values = [kernel.numpy() for kernel in kernels]
    return float(sum((one == 0).sum() for one in values) / sum(one.size for one in values))


def _zstd(data: bytes) -> int:
    return len(zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(data))


def _deflate(data: bytes) -> int:
    return len(zlib.compress(data, _DEFLATE_LEVEL))
