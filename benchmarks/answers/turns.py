"""Two or more ways to answer the same inputs, timed in one run: by turns, in an order that changes."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_WARM_UP = 10


def medians_ms(
    ways: Mapping[str, Callable[[Any], Any]], inputs: Sequence[Any], *, rounds: int, seconds: float, seed: int = 0
) -> dict[str, float]:
    """The median of each way's times, by key. Each round takes the next input, and each way has a turn with it.

    rounds: at most so many, within so many seconds.
    """
    rng = np.random.default_rng(seed)
    keys = list(ways)
    took: dict[str, list[float]] = {key: [] for key in keys}
    for number in range(_WARM_UP):
        for key in keys:
            ways[key](inputs[number % len(inputs)])
    ends_s = time.perf_counter() + seconds
    for number in range(rounds):
        given = inputs[number % len(inputs)]
        for index in rng.permutation(len(keys)):
            way = ways[keys[index]]
            started = time.perf_counter_ns()
            way(given)
            took[keys[index]].append((time.perf_counter_ns() - started) / 1e6)
        if time.perf_counter() > ends_s:
            break
    return {key: float(np.median(times)) for key, times in took.items()}
