import itertools
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edgeloop.cli.watch import LeftOut, WatchView, quantile
from edgeloop.contracts.output import Task
from edgeloop.contracts.prediction import Box, Prediction, Scored


def _prediction(label: str | None = "cat", **changed: Any) -> Prediction:
    fields: dict[str, Any] = {
        "label": label,
        "score": 0.875,
        "margin": 0.5,
        "top": (),
        "latency_ms": 2.0,
        "bundle": "pets@1.0.0",
        "engine": "litert",
        "precision": "int8",
        "at_s": 1.25,
        "source": "door#000007",
    }
    return Prediction(**{**fields, **changed})


class _Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _text(view: WatchView, *, width: int = 100) -> str:
    console = Console(width=width, force_terminal=False, legacy_windows=False)
    with console.capture() as captured:
        console.print(view.render())
    return captured.get()


def _rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if "door#" in line]


def test_last_error_is_shown_without_control_characters() -> None:
    view = WatchView("pets")
    view.fail("corrupt: a.png: first")
    view.fail("corrupt: b\x1b[2J.png: second")
    text = _text(view)
    assert "last error: corrupt: b?[2J.png: second" in text
    assert "first" not in text


def test_nothing_was_answered_yet() -> None:
    text = _text(WatchView("pets@1.0.0 on door"))
    assert "pets@1.0.0 on door" in text
    assert "0.0 fps   no answer yet" in text
    assert "0 answered, 0 cached, 0 skipped, 0 dropped, 0 errors, 0 stalled, 0 reopened" in text


def test_answer_is_shown_with_time_input_label_score_and_latency() -> None:
    view = WatchView("x")
    view.add(_prediction())
    (row,) = _rows(_text(view))
    assert row.strip("│ ").split() == ["1.2", "s", "door#000007", "cat", "87.5", "%", "2.00", "ms"]


def test_rate_is_of_the_last_second() -> None:
    clock = _Clock()
    view = WatchView("x", clock=clock)
    for _ in range(50):
        clock.now_s += 0.125
        view.add(_prediction())
    assert "8.0 fps" in _text(view)
    clock.now_s += 0.5
    assert "4.0 fps" in _text(view)
    clock.now_s += 5.0
    assert "0.0 fps" in _text(view)


def test_latency_is_of_the_last_two_hundred() -> None:
    view = WatchView("x")
    for latency_ms in itertools.chain([1000.0] * 50, range(1, 201)):
        view.add(_prediction(latency_ms=float(latency_ms)))
    assert "latency p50 100.00 ms, p99 198.00 ms of the last 200" in _text(view)


@pytest.mark.parametrize("count", [1, 2, 7, 100, 200])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_quantile_is_the_nearest_rank(count: int, share: float) -> None:
    values = np.random.default_rng(count).random(count)
    expected = np.quantile(values, share, method="inverted_cdf")
    assert quantile(list(values), share) == expected


def test_last_ten_are_shown_newest_first() -> None:
    view = WatchView("x")
    for number in range(25):
        view.add(_prediction(source=f"door#{number}"))
    assert [row.split()[3] for row in _rows(_text(view))] == [f"door#{number}" for number in range(24, 14, -1)]


def test_counters_are_shown() -> None:
    view = WatchView("x")
    for number in range(1500):
        view.add(_prediction(cached=number % 3 == 0))
    view.tell(LeftOut(skipped=1, dropped=2345, errors=3, stalled=4, reopened=5))
    text = _text(view)
    assert "1,500 answered, 500 cached (33.3 %), 1 skipped, 2,345 dropped, 3 errors, 4 stalled, 5 reopened" in text


def test_cached_answer_says_so_in_place_of_its_latency() -> None:
    view = WatchView("x")
    view.add(_prediction(cached=True))
    assert _rows(_text(view))[0].strip("│ ").endswith("cached")


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"label": None}, "none"),
        ({"boxes": (Box("cat", 0.9, 0, 0, 1, 1),) * 3, "task": Task.DETECTION}, "cat and 2 more"),
        ({"boxes": (Box("cat", 0.9, 0, 0, 1, 1),), "task": Task.DETECTION}, "cat  "),
        ({"label": None, "task": Task.REGRESSION, "top": (Scored("kW", 1.5), Scored("V", 230.0))}, "kW 1.5, V 230"),
        ({"task": Task.ANOMALY, "score": 12.5}, " 12.5 "),
        ({"task": Task.SEGMENTATION, "score": 0.25}, "25.0 %"),
    ],
)
def test_each_task_shows_what_it_decides(changed: dict[str, Any], shown: str) -> None:
    view = WatchView("x")
    view.add(_prediction(**{"label": "cat", **changed}))
    assert shown in _rows(_text(view))[0]


def test_label_is_not_taken_for_markup_or_control() -> None:
    view = WatchView("[red]x[/]")
    view.add(_prediction("[bold]c\x1b[2J", source="door#\x07"))
    text = _text(view)
    assert "[red]x[/]" in text
    assert "[bold]c?[2J" in text
    assert "door#?" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [20, 40, 200])
def test_view_fits_its_terminal(width: int) -> None:
    view = WatchView("x" * 300)
    for _ in range(12):
        view.add(_prediction("l" * 300, source="door#" + "n" * 300))
    assert max(len(line) for line in _text(view, width=width).splitlines()) <= width
