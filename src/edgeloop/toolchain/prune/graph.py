"""Which channels of a network hang together: what must leave with a channel when it leaves.

Every element of a tensor's last axis carries the identity of a channel. Channels that any layer ties are one channel,
and those made by the same layers are a group, within which importance compares. Model inputs and outputs stay whole.
Source: Fang et al. 2023, DepGraph (arXiv 2301.12900), here by channel and not by layer.
Neighbours: `trace` reads a network into this; `macs` counts, `rank` says which channels matter, `surgery` takes
channels out.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Refused
from edgeloop.toolchain.prune.macs import weight_uses

Channels = NDArray[np.int64]
"""Identities of channels, one for each position of an axis."""


@dataclass(frozen=True)
class Weight:
    """One weight of a layer. axes: the channels at the positions of an axis that may shrink. makes: the axis of those
    that the layer makes. uses: multiply-adds of each element for one sample."""

    layer: str
    name: str
    shape: tuple[int, ...]
    axes: dict[int, Channels]
    makes: int | None
    uses: int


@dataclass(frozen=True)
class Group:
    """Channels that the same layers make. Each can leave alone; importance compares within a group."""

    layers: tuple[str, ...]
    channels: Channels


@dataclass(frozen=True)
class Blocked:
    """Layers that keep all their channels, and why."""

    layers: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class ChannelGraph:
    """A network's channels. made: by layer, the channels of its output, for layers with filters or units.
    reads: tensors that a convolution or dense layer mixes, with their channels. reshapes: by Reshape layer, the
    channels of its output's last axis. folds: by layer, the batch normalization that alone reads it, which an engine
    folds into it. size: number of identities; they are 0 .. size - 1."""

    size: int
    weights: tuple[Weight, ...]
    made: dict[str, Channels]
    reads: tuple[tuple[Any, Channels], ...]
    reshapes: dict[str, Channels]
    folds: dict[str, str]
    groups: tuple[Group, ...]
    blocked: tuple[Blocked, ...]
    kept_whole: Channels

    def all_channels(self) -> NDArray[np.bool_]:
        """A mask (size,) of what is kept that keeps everything."""
        return np.ones(self.size, np.bool_)


def require_prunable(graph: ChannelGraph, name: str) -> None:
    """Raise Refused if no channel may leave, with what holds them."""
    if graph.groups:
        return
    held = "; ".join(f"{', '.join(one.layers)}: {one.reason}" for one in graph.blocked)
    raise Refused(
        f"no channel of {name} can be taken out. {held or 'It has no layer between its input and its scores'}"
    )


class Tracer:
    """What is known while walking the graph. Identities are joined by union-find."""

    def __init__(self) -> None:
        self.channels: dict[int, Channels] = {}
        self.weights: dict[tuple[str, str], Weight] = {}
        self.made: dict[str, Channels] = {}
        self.reads: list[tuple[Any, Channels]] = []
        self.reshapes: dict[str, Channels] = {}
        self.folds: dict[str, str] = {}
        self._parents: list[int] = []
        self._blocks: list[tuple[Channels, str | None]] = []

    def fresh(self, count: int) -> Channels:
        """New identities."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def fresh_for(self, tensor: Any) -> Channels:
        """New identities for a tensor's last axis; a tensor without one has a single channel."""
        made = self.fresh(int(tensor.shape[-1]) if len(tensor.shape) > 1 else 1)
        self.channels[id(tensor)] = made
        return made

    def of(self, tensor: Any) -> Channels:
        """The identities of a tensor that was visited."""
        return self.channels[id(tensor)]

    def tie(self, first: Channels, second: Channels) -> None:
        """These are the same channels, position by position."""
        for left, right in zip(first.tolist(), second.tolist(), strict=True):
            a, b = self._root(left), self._root(right)
            self._parents[max(a, b)] = min(a, b)

    def block(self, channels: Channels, reason: str | None) -> None:
        """These stay. reason: None where it goes without saying."""
        self._blocks.append((channels, reason))

    def weigh(self, node: Any, axes: dict[str, dict[int, Channels]], makes: tuple[str, int] | None = None) -> None:
        """Note the weights of a layer and their axes; a layer that is called again ties both calls' channels.

        makes: the weight, and the axis of it, that the layer's own channels come from.
        """
        layer, uses = node.operation, weight_uses(node)
        for weight in layer.weights:
            # A layer made of layers can hold several weights of one name.
            key = (layer.name, weight.path)
            mine = axes.get(weight.name, {})
            before = self.weights.get(key)
            if before is not None:
                for axis, channels in before.axes.items():
                    self.tie(channels, mine[axis])
            total = uses.get(weight.name, 0) + (before.uses if before else 0)
            made_on = makes[1] if makes is not None and makes[0] == weight.name else None
            self.weights[key] = Weight(layer.name, weight.name, tuple(weight.shape), mine, made_on, total)

    def finish(self) -> ChannelGraph:
        """Everything by its root identity."""
        roots = np.array([self._root(one) for one in range(len(self._parents))], np.int64)
        made = {name: roots[channels] for name, channels in self.made.items()}
        fixed = np.zeros(len(roots), np.bool_)
        for channels, _ in self._blocks:
            fixed[roots[channels]] = True
        return ChannelGraph(
            size=len(roots),
            weights=tuple(
                replace(one, axes={axis: roots[channels] for axis, channels in one.axes.items()})
                for one in self.weights.values()
            ),
            made=made,
            reads=tuple((tensor, roots[channels]) for tensor, channels in self.reads),
            reshapes={name: roots[channels] for name, channels in self.reshapes.items()},
            folds=dict(self.folds),
            groups=_groups(made, fixed),
            blocked=self._reasons(made, roots),
            kept_whole=np.flatnonzero(fixed),
        )

    def _root(self, one: int) -> int:
        while self._parents[one] != one:
            self._parents[one] = self._parents[self._parents[one]]
            one = self._parents[one]
        return one

    def _reasons(self, made: dict[str, Channels], roots: Channels) -> tuple[Blocked, ...]:
        """The layers that each stated reason keeps whole; not those that are an input's or output's anyway."""
        silent = [roots[channels] for channels, reason in self._blocks if reason is None]
        obvious = set(np.concatenate(silent).tolist()) if silent else set()
        found: dict[str, dict[str, None]] = {}
        for channels, reason in self._blocks:
            held = set(roots[channels].tolist()) - obvious
            for layer, own in made.items():
                if reason is not None and held.intersection(own.tolist()):
                    found.setdefault(reason, {})[layer] = None
        return tuple(Blocked(tuple(layers), reason) for reason, layers in found.items())


def _groups(made: dict[str, Channels], fixed: NDArray[np.bool_]) -> tuple[Group, ...]:
    makers: dict[int, list[str]] = {}
    for layer, channels in made.items():
        for one in dict.fromkeys(channels.tolist()):
            if not fixed[one]:
                makers.setdefault(one, []).append(layer)
    groups: dict[tuple[str, ...], list[int]] = {}
    for one, layers in makers.items():
        groups.setdefault(tuple(layers), []).append(one)
    return tuple(Group(layers, np.array(members, np.int64)) for layers, members in groups.items())
