"""What a person sees of a live stream: how fast it is answered, what was answered last, what was left out.

Rule kept here: nothing of the runtime is needed to show it; a view is fed with predictions and numbers, and drawn.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edgeloop.cli.say import printable
from edgeloop.cli.show import percent
from edgeloop.contracts.output import Task
from edgeloop.contracts.prediction import Prediction

_RATE_OVER_S = 1.0
_LATENCIES = 200
_ROWS = 10
_SHARES = (Task.CLASSIFICATION, Task.DETECTION, Task.SEGMENTATION)


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """Inputs that were not answered, and what the source went through; see `runtime.sources.port.Counts`."""

    skipped: int = 0
    dropped: int = 0
    errors: int = 0
    stalled: int = 0
    reopened: int = 0


class WatchView:
    """The last second and the last answers of a stream. Not thread-safe.

    title: what is watched. clock: seconds that only grow.
    """

    def __init__(self, title: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._title = title
        self._clock = clock
        self._answered = self._cached = 0
        self._times_s: deque[float] = deque()
        self._latencies_ms: deque[float] = deque(maxlen=_LATENCIES)
        self._last: deque[Prediction] = deque(maxlen=_ROWS)
        self._left_out = LeftOut()
        self._problem = ""

    def add(self, prediction: Prediction) -> None:
        """One more answer."""
        self._answered += 1
        self._cached += prediction.cached
        self._times_s.append(self._clock())
        self._latencies_ms.append(prediction.latency_ms)
        self._last.append(prediction)
        self._forget()

    def fail(self, problem: str) -> None:
        """An input that could not be used, and why; the last of them is shown."""
        self._problem = problem

    def tell(self, left_out: LeftOut) -> None:
        """What was left out so far."""
        self._left_out = left_out

    def render(self) -> RenderableType:
        """A panel: rate and latency, counters, the last error if there was one, the last answers, newest first."""
        self._forget()
        rate = len(self._times_s) / _RATE_OVER_S
        parts = (
            Text(f"{rate:.1f} fps   {_latency_line(self._latencies_ms)}"),
            Text(_counter_line(self._answered, self._cached, self._left_out), style="dim"),
            *([Text(f"last error: {printable(self._problem)}", style="red")] if self._problem else ()),
            _table(tuple(reversed(self._last))),
        )
        return Panel(Group(*parts), title=Text(printable(self._title)), title_align="left", box=box.ROUNDED)

    def _forget(self) -> None:
        """Answers of longer ago than the rate is told over."""
        since_s = self._clock() - _RATE_OVER_S
        while self._times_s and self._times_s[0] <= since_s:
            self._times_s.popleft()


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed (nearest rank).

    >>> quantile([3.0, 1.0, 2.0, 4.0], 0.5), quantile([3.0, 1.0, 2.0, 4.0], 0.99)
    (2.0, 4.0)
    """
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def decision(prediction: Prediction) -> str:
    """What was decided, for people: a label, how many boxes, or the values."""
    if prediction.task is Task.REGRESSION:
        return ", ".join(f"{one.label} {one.score:.4g}" for one in prediction.top)
    if prediction.label is None:
        return "none"
    count = len(prediction.boxes)
    return f"{prediction.label} and {count - 1} more" if count > 1 else prediction.label


def score(prediction: Prediction) -> str:
    """How sure, as a share of 100 where it is one; else the number itself."""
    if prediction.task in _SHARES:
        return percent(prediction.score)
    return f"{prediction.score:.4g}"


def _latency_line(latencies_ms: Sequence[float]) -> str:
    if not latencies_ms:
        return "no answer yet"
    p50_ms, p99_ms = quantile(latencies_ms, 0.5), quantile(latencies_ms, 0.99)
    return f"latency p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms of the last {len(latencies_ms)}"


def _counter_line(answered: int, cached: int, left_out: LeftOut) -> str:
    share = f" ({percent(cached / answered)})" if answered else ""
    line = f"{answered:,} answered, {cached:,} cached{share}"
    for name, number in msgspec.structs.asdict(left_out).items():
        line += f", {number:,} {name}"
    return line


def _table(last: Sequence[Prediction]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False, expand=True)
    table.add_column("at", justify="right", no_wrap=True)
    table.add_column("input", no_wrap=True, overflow="ellipsis", ratio=2)
    table.add_column("label", no_wrap=True, overflow="ellipsis", ratio=3)
    for name in ("score", "latency"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in last:
        table.add_row(
            "-" if one.at_s is None else f"{one.at_s:.1f} s",
            Text(printable(one.source)),
            Text(printable(decision(one)), style="dim" if one.label is None else "bold"),
            score(one),
            "cached" if one.cached else f"{one.latency_ms:.2f} ms",
        )
    return table
