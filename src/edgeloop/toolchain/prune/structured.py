"""Structured pruning: whole filters and neurons leave the graph, so the file and the arithmetic shrink.

Take out a part, fit what remains, take out more, until the stated share is left. Neighbours: `graph`, `rank`, `choose`
and `surgery` decide and do one cut; `fitting` fits; `unstructured` zeroes single weights instead.
"""

from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.toolchain.data.dataset import UNLABELLED, Prepared, sha256_of
from edgeloop.toolchain.data.open import require_labels_match
from edgeloop.toolchain.fitting import (
    FineTune,
    Teacher,
    accuracy,
    fine_tune,
    gives_probabilities,
    is_autoencoder,
)
from edgeloop.toolchain.progress import Progress, silent, within
from edgeloop.toolchain.prune.choose import Mask, amount, choose
from edgeloop.toolchain.prune.graph import ChannelGraph, require_prunable
from edgeloop.toolchain.prune.measures import By, Of, Scope
from edgeloop.toolchain.prune.rank import importance
from edgeloop.toolchain.prune.settle import settle
from edgeloop.toolchain.prune.surgery import cost_of, cut, flattened
from edgeloop.toolchain.prune.trace import trace_channels
from edgeloop.toolchain.recipe import require_in_range
from edgeloop.toolchain.source.keras import plain_keras, wrap_keras
from edgeloop.toolchain.source.model import FEATURES, LOGITS, Format, Model

_SMALLEST_PROBABILITY = 1e-7


class PruneRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """How to prune. keep: the share of `of` that remains. by: what is least important. scope: where that competes.

    rounds: cuts, with fine-tuning after each; every cut takes the same share of what is left. images_seen: training
    samples shown after each cut, 0 for none; learning_rate: of Adam. distil: fit to the scores of the network as it
    was, beside the labels, with temperature and teacher_weight (see fitting.FineTune). least_channels: that each group
    of layers keeps; multiple_of: hardware likes 4 or 8.
    """

    keep: Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)] = 0.5
    of: Of = Of.MACS
    by: By = By.L1
    scope: Scope = Scope.NETWORK
    rounds: Annotated[int, msgspec.Meta(ge=1)] = 1
    images_seen: Annotated[int, msgspec.Meta(ge=0)] = 20_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    augment: bool = True
    distil: bool = False
    temperature: float = 4.0
    teacher_weight: float = 0.5
    least_channels: Annotated[int, msgspec.Meta(ge=1)] = 2
    multiple_of: Annotated[int, msgspec.Meta(ge=1)] = 1
    seed: int = 0


class LayerChannels(msgspec.Struct, frozen=True, kw_only=True):
    """Filters or units of a layer."""

    name: str
    before: int
    after: int


class BlockedLayers(msgspec.Struct, frozen=True, kw_only=True):
    """Layers that kept all their channels because of `reason`."""

    layers: tuple[str, ...]
    reason: str


class PruneRound(msgspec.Struct, frozen=True, kw_only=True):
    """One cut: the share that it left, accuracy on validation data before and after fine-tuning (None without
    labels), and the last loss (None without fine-tuning)."""

    kept: float
    accuracy_cut: float | None
    accuracy_tuned: float | None
    loss: float | None


class PruneReport(msgspec.Struct, frozen=True, kw_only=True):
    """What pruning took and cost. kept: the share of `of` that is left; missed_by: how far that lies above `keep`, 0
    where it was reached. accuracy_*: on validation data, None without labels."""

    of: Of
    keep: float
    kept: float
    missed_by: float
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    size_bytes_before: int
    size_bytes_after: int
    accuracy_before: float | None
    accuracy_cut: float | None
    accuracy_after: float | None
    rounds: tuple[PruneRound, ...]
    layers: tuple[LayerChannels, ...]
    blocked: tuple[BlockedLayers, ...]


def prune(
    model: Model, recipe: PruneRecipe, data: Prepared, *, progress: Progress = silent
) -> tuple[Model, PruneReport]:
    """A network with fewer channels, fitted again.

    Raises InvalidInput if the model is none of Keras or holds a layer that cannot be cut, if the data has no labels
    to fit to, or if a number of the recipe is out of range; Refused if nothing can be taken out, or weights are NaN.
    """
    require_in_range(recipe)
    net = flattened(graph_to_change(model))
    require_teachable(net, data, images_seen=recipe.images_seen, distil=recipe.distil)
    require_finite(net)
    graph = _traced(net)
    require_prunable(graph, model.name)
    first, widths, whole = graph, _widths(graph), amount(graph, graph.all_channels(), recipe.of)
    before = accuracy_or_none(net, data)
    teacher = teacher_of(plain_keras(model)) if recipe.distil else None
    rounds: list[PruneRound] = []
    for index in range(recipe.rounds):
        target = whole * recipe.keep ** ((index + 1) / recipe.rounds)
        told = within(progress, index / recipe.rounds, (index + 1) / recipe.rounds)
        net, kept = _cut_once(net, graph, recipe, data, target, index)
        left = amount(graph, kept, recipe.of) / whole
        rounds.append(_fit(net, recipe, data, teacher, told, left, index))
        graph = _traced(net)
    made = wrap_keras(net, name=model.name).after("prune", recipe, before=model, data_sha256=sha256_of(data))
    last, cost, cost_before = rounds[-1], _whole_cost(graph), _whole_cost(first)
    return made, PruneReport(
        of=recipe.of,
        keep=recipe.keep,
        kept=last.kept,
        missed_by=max(0.0, last.kept - recipe.keep),
        macs_before=cost_before[0],
        macs_after=cost[0],
        parameters_before=cost_before[1],
        parameters_after=cost[1],
        size_bytes_before=model.size_bytes,
        size_bytes_after=made.size_bytes,
        accuracy_before=before,
        accuracy_cut=last.accuracy_cut,
        accuracy_after=last.accuracy_tuned,
        rounds=tuple(rounds),
        layers=tuple(
            LayerChannels(name=name, before=widths[name], after=after) for name, after in _widths(graph).items()
        ),
        blocked=tuple(BlockedLayers(layers=one.layers, reason=one.reason) for one in first.blocked),
    )


def require_keras(model: Model, step: str) -> None:
    """Raise InvalidInput for a model whose layers cannot be changed."""
    if model.format is not Format.KERAS:
        raise InvalidInput(
            f"{model.name} is a model of the format {model.format}; {step} changes layers, which only a Keras model "
            "offers. Start from the .keras or .h5 file, or distil this model into a smaller one"
        )


def teacher_of(net: Any) -> Teacher:
    """A keras.Model as a teacher: its logits, or the logs of its probabilities where its last layer is a softmax."""
    logs = gives_probabilities(net)

    def scores(tensors: NDArray[np.float32]) -> NDArray[np.float32]:
        made = np.asarray(net.predict(tensors, batch_size=256, verbose=0), np.float32)
        return np.log(np.maximum(made, _SMALLEST_PROBABILITY)) if logs else made

    return scores


def graph_to_change(model: Model) -> Any:
    """The keras.Model inside to change: with scores alone where the features are found again by their layer's name.

    Raises InvalidInput for a model of another format, or with several inputs.
    """
    require_keras(model, "pruning")
    model.only_input()
    names = {spec.name for spec in model.outputs}
    by_layer = any(layer.name == FEATURES for layer in model.native.layers)
    return plain_keras(model) if names <= {LOGITS, FEATURES} and (by_layer or FEATURES not in names) else model.native


def require_finite(net: Any) -> None:
    """Raise Refused if a layer of a keras.Model holds NaN or infinity."""
    bad = [layer.name for layer in net.layers if not all(np.isfinite(one).all() for one in layer.get_weights())]
    if bad:
        raise Refused(f"layers {', '.join(bad)} of {net.name!r} hold NaN or infinity; train the model again")


def require_teachable(net: Any, data: Prepared, *, images_seen: int, distil: bool) -> None:
    """Raise InvalidInput if there is nothing to fine-tune with, or labels do not match the scores."""
    if _reproduces(net):
        return
    if LOGITS in _widths_of_outputs(net):
        require_labels_match(data.dataset, _widths_of_outputs(net)[LOGITS])
    if images_seen and not distil and (data.dataset.fit.labels == UNLABELLED).any():
        raise InvalidInput(
            f"samples of {data.dataset.name} have no labels to fine-tune with; fit to the original's scores instead "
            "(distil=True, --distil), or do not fine-tune (images_seen=0, --fine-tune 0)"
        )


def _widths_of_outputs(net: Any) -> dict[str, int]:
    outputs = net.output if isinstance(net.output, dict) else {LOGITS: net.outputs[0]}
    return {name: int(tensor.shape[-1]) for name, tensor in outputs.items()}


def _reproduces(net: Any) -> bool:
    return len(net.outputs) == 1 and is_autoencoder(net)


def _traced(net: Any) -> ChannelGraph:
    outputs = net.output
    features = [outputs[FEATURES]] if isinstance(outputs, dict) and FEATURES in outputs else []
    return trace_channels(net, may_shrink=features)


def _cut_once(
    net: Any, graph: ChannelGraph, recipe: PruneRecipe, data: Prepared, target: float, index: int
) -> tuple[Any, Mask]:
    ranked = importance(net, graph, recipe.by, data, seed=recipe.seed + index)
    kept = choose(
        graph,
        ranked,
        target=target,
        of=recipe.of,
        scope=recipe.scope,
        least_channels=recipe.least_channels,
        multiple_of=recipe.multiple_of,
    )
    smaller = cut(net, graph, kept)
    settle(smaller, data, seed=recipe.seed + index)
    return smaller, kept


def _fit(
    net: Any, recipe: PruneRecipe, data: Prepared, teacher: Teacher | None, progress: Progress, left: float, index: int
) -> PruneRound:
    after_cut = accuracy_or_none(net, data)
    if not recipe.images_seen:
        return PruneRound(kept=left, accuracy_cut=after_cut, accuracy_tuned=after_cut, loss=None)
    how = FineTune(
        images_seen=recipe.images_seen,
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed + index,
        augment=recipe.augment,
        temperature=recipe.temperature,
        teacher_weight=recipe.teacher_weight if teacher else 0.0,
    )
    loss = fine_tune(net, data, how, teacher_scores=teacher, progress=progress)
    settle(net, data, seed=recipe.seed + index)
    return PruneRound(kept=left, accuracy_cut=after_cut, accuracy_tuned=accuracy_or_none(net, data), loss=loss)


def accuracy_or_none(net: Any, data: Prepared) -> float | None:
    """On validation data; None where nothing is labelled, or the network does not score classes."""
    part = data.dataset.validation
    if _reproduces(net) or not (part.labels != UNLABELLED).any():
        return None
    return accuracy(net, data, part)


def _widths(graph: ChannelGraph) -> dict[str, int]:
    return {name: len(channels) for name, channels in graph.made.items()}


def _whole_cost(graph: ChannelGraph) -> tuple[int, int]:
    cost = cost_of(graph, graph.all_channels())
    return cost.macs, cost.parameters
