"""Which channels leave: the least important, as few as bring the network to its target. Pure, on a traced graph."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgeloop.toolchain.prune.graph import ChannelGraph, Group
from edgeloop.toolchain.prune.measures import Of, Scope
from edgeloop.toolchain.prune.surgery import cost_of

Mask = NDArray[np.bool_]
"""(graph.size,): whether a channel stays."""

_HALVINGS = 40


def amount(graph: ChannelGraph, kept: Mask, of: Of) -> int:
    """How much of it the network has with these channels."""
    if of is Of.CHANNELS:
        return int(sum(kept[group.channels].sum() for group in graph.groups))
    cost = cost_of(graph, kept)
    return cost.macs if of is Of.MACS else cost.parameters


def choose(
    graph: ChannelGraph,
    importance: NDArray[np.float64],
    *,
    target: float,
    of: Of,
    scope: Scope,
    least_channels: int = 1,
    multiple_of: int = 1,
) -> Mask:
    """The mask that takes out the fewest channels that bring `amount` to `target` or below.

    Each group keeps at least least_channels, and a multiple of multiple_of unless it keeps all; where the target
    cannot be reached so, everything leaves that may.
    """
    orders = [_best_first(group, importance) for group in graph.groups]

    def mask(counts: list[int]) -> Mask:
        kept = graph.all_channels()
        for order, count in zip(orders, counts, strict=True):
            kept[order[_allowed(count, len(order), least_channels, multiple_of) :]] = False
        return kept

    def fits(kept: Mask) -> bool:
        return amount(graph, kept, of) <= target

    if scope is Scope.LAYER:
        return _by_share(lambda share: mask([int(np.ceil(share * len(order))) for order in orders]), fits)
    return _by_count(graph, importance, mask, fits)


def _best_first(group: Group, importance: NDArray[np.float64]) -> NDArray[np.int64]:
    return group.channels[np.argsort(-importance[group.channels], kind="stable")]


def _allowed(count: int, size: int, least: int, multiple_of: int) -> int:
    """The number of channels that a group keeps when `count` are wanted."""
    wanted = max(count, least, 1)
    return min(size, -(-wanted // multiple_of) * multiple_of)


def _by_share(mask: Callable[[float], Mask], fits: Callable[[Mask], bool]) -> Mask:
    low, high = 0.0, 1.0
    if fits(mask(high)):
        return mask(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(mask(middle)) else (low, middle)
    return mask(low)


def _by_count(
    graph: ChannelGraph,
    importance: NDArray[np.float64],
    mask: Callable[[list[int]], Mask],
    fits: Callable[[Mask], bool],
) -> Mask:
    everyone = np.concatenate([group.channels for group in graph.groups])
    owner = np.repeat(np.arange(len(graph.groups)), [len(group.channels) for group in graph.groups])
    leaving = owner[np.argsort(importance[everyone], kind="stable")]
    sizes = np.bincount(owner)

    def without(count: int) -> Mask:
        return mask((sizes - np.bincount(leaving[:count], minlength=len(sizes))).tolist())

    low, high = 0, len(everyone)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(without(middle)) else (middle + 1, high)
    return without(low)
