"""The front as one HTML page that needs nothing else: a plot to point at, and the table behind it."""

from collections.abc import Sequence
from html import escape
from typing import Any

from edgeloop.contracts.errors import Unavailable
from edgeloop.toolchain.compress.front import Candidate
from edgeloop.toolchain.compress.report import Baseline, CompressReport
from edgeloop.toolchain.profiles.open import THIS

_STYLE = """
:root { color-scheme: light; --ink: #1b2330; --dim: #5c6675; --line: #d8dde5; --good: #0b7a3e; --back: #ffffff; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 2rem auto;
       max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; } p { margin: .3rem 0; }
.dim { color: var(--dim); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--dim); font-weight: 500; white-space: nowrap; } td.n { white-space: nowrap; }
tr.front td:first-child { font-weight: 700; } .good { color: var(--good); }
"""
_INK, _GREY, _GOOD, _BAD = "#1b2330", "#8b95a5", "#0b7a3e", "#c2410c"
_PAPER = "#ffffff"


def page(report: CompressReport) -> str:
    """The page as text. Raises Unavailable if plotly is not installed."""
    good = sum(not candidate.misses for candidate in report.candidates)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(report.model)}: the front</title><style>{_STYLE}</style></head><body>
<h1>{escape(report.model)}, compressed</h1>
<p>{escape(_asked(report))}</p>
<p class="dim">{report.trials} trials in {report.spent_s / 60:.1f} minutes, seed {report.seed}; {len(report.candidates)}
candidates measured on {report.baseline.samples:,} held-out samples; {good} within the bounds.</p>
{_plot(report)}
<h2>Candidates</h2>
<div class="wide"><table><thead><tr><th>trial</th><th>what</th><th>size</th><th>points lost</th><th>right</th>
<th>latency p50</th><th>multiply-adds</th><th>peak memory</th><th>within the bounds</th></tr></thead>
<tbody>{_baseline_row(report)}{"".join(_row(candidate) for candidate in report.candidates)}</tbody>
</table></div>
<p class="dim">Bold: on the front, no other candidate is as good in everything and better in something. Latency:
{escape(_latency_words(report))}. Peak memory: of a whole process that runs only this model, here; on a
microcontroller, the arena.</p>
</body></html>
"""


def _asked(report: CompressReport) -> str:
    bounds = report.bounds
    asked = []
    if bounds.max_drop_points is not None:
        asked.append(f"at most {bounds.max_drop_points:g} points lost")
    if bounds.max_size_bytes is not None:
        asked.append(f"at most {bounds.max_size_bytes:,} bytes")
    if bounds.max_latency_p50_ms is not None:
        asked.append(f"at most {bounds.max_latency_p50_ms:g} ms")
    if bounds.max_memory_bytes is not None:
        asked.append(f"at most {bounds.max_memory_bytes:,} bytes of memory")
    device = "this machine" if report.profile == THIS else report.profile
    return f"For {device}: {', '.join(asked) or 'no bounds'}."


def _latency_words(report: CompressReport) -> str:
    # A method that begins with what it is does not need to be told twice.
    methods = {
        one.method if one.method.startswith(one.latency_is) else f"{one.latency_is} ({one.method})"
        for one in report.candidates
    }
    return "; ".join(sorted(methods)) or "none"


def _plot(report: CompressReport) -> str:
    graph, offline = _plotly()
    figure = graph.Figure()
    for name, colour, chosen in (
        ("within the bounds", _GOOD, [c for c in report.candidates if not c.misses]),
        ("misses a bound", _BAD, [c for c in report.candidates if c.misses]),
    ):
        if chosen:
            figure.add_trace(_points(graph, name, colour, chosen))
    figure.add_trace(_front_line(graph, report.candidates))
    figure.add_trace(_baseline_point(graph, report.baseline))
    bounds = report.bounds
    if bounds.max_size_bytes is not None:
        figure.add_vline(x=bounds.max_size_bytes / 1024, line={"dash": "dot", "color": _GREY})
    if bounds.max_drop_points is not None:
        figure.add_hline(y=bounds.max_drop_points, line={"dash": "dot", "color": _GREY})
    figure.update_layout(
        template="plotly_white",
        height=520,
        margin={"l": 60, "r": 20, "t": 30, "b": 60},
        paper_bgcolor=_PAPER,
        font={"color": _INK},
        legend={"orientation": "h", "y": 1.08},
        xaxis={"title": "size, KB (log)", "type": "log"},
        yaxis={"title": "points lost on held-out data", "zeroline": True},
    )
    # The script of the plot goes into the page: it opens without a network, years from now.
    return str(offline.plot(figure, output_type="div", include_plotlyjs=True, config={"displaylogo": False}))


def _points(graph: Any, name: str, colour: str, chosen: Sequence[Candidate]) -> Any:
    return graph.Scatter(
        x=[candidate.size_bytes / 1024 for candidate in chosen],
        y=[candidate.lost_points for candidate in chosen],
        mode="markers",
        name=name,
        marker={
            "color": colour,
            "size": [15 if candidate.on_front else 8 for candidate in chosen],
            "line": {"width": 1, "color": _PAPER},
        },
        text=[_hover(candidate) for candidate in chosen],
        hoverinfo="text",
    )


def _front_line(graph: Any, candidates: Sequence[Candidate]) -> Any:
    """The staircase of size against points lost: the other two axes are in the table."""
    best, least = [], float("inf")
    for candidate in sorted(candidates, key=lambda one: (one.size_bytes, one.lost_points)):
        if candidate.lost_points < least:
            least = candidate.lost_points
            best.append(candidate)
    return graph.Scatter(
        x=[candidate.size_bytes / 1024 for candidate in best],
        y=[candidate.lost_points for candidate in best],
        mode="lines",
        line={"shape": "hv", "color": _GREY, "width": 1},
        name="best for its size",
        hoverinfo="skip",
    )


def _baseline_point(graph: Any, baseline: Baseline) -> Any:
    return graph.Scatter(
        x=[baseline.size_bytes / 1024],
        y=[0.0],
        mode="markers",
        name="the source",
        marker={"symbol": "diamond", "size": 13, "color": _INK},
        text=[f"the source: {baseline.size_bytes:,} bytes, {100 * baseline.accuracy:.2f} % right"],
        hoverinfo="text",
    )


def _hover(candidate: Candidate) -> str:
    took = candidate.target_latency_ms
    latency = "unknown" if took is None else f"{took:.3g} ms, {candidate.latency_is}"
    return (
        f"trial {candidate.number}: {escape(candidate.title)}<br>{candidate.size_bytes:,} bytes, "
        f"{candidate.lost_points:+.2f} points lost<br>{latency}"
    )


def _baseline_row(report: CompressReport) -> str:
    baseline = report.baseline
    # Where the candidates' latencies are of another device, the source's, which was timed here, says so.
    took = _ms(baseline.latency_p50_ms) if report.profile == THIS else f"here {_ms(baseline.latency_p50_ms)}"
    cells = (
        "-",
        f"the source, {escape(baseline.format)}",
        f"{baseline.size_bytes:,} B",
        "0",
        f"{100 * baseline.accuracy:.2f} %",
        took,
        _count(baseline.multiply_adds),
        _mb(baseline.peak_memory_bytes),
        "",
    )
    return _line(cells)


def _row(candidate: Candidate) -> str:
    cells = (
        str(candidate.number),
        escape(candidate.title),
        f"{candidate.size_bytes:,} B",
        f"{candidate.lost_points:+.2f}",
        f"{100 * candidate.measured.share_right:.2f} %",
        _ms(candidate.target_latency_ms),
        _count(candidate.multiply_adds),
        _mb(candidate.memory_bytes),
        escape("; ".join(candidate.misses)) or '<span class="good">yes</span>',
    )
    return _line(cells, kind="front" if candidate.on_front else "")


def _line(cells: Sequence[str], *, kind: str = "") -> str:
    """A table row; figures do not wrap, words (the second and the last cell) do."""
    wraps = (1, len(cells) - 1)
    shown = "".join(f'<td class="{"" if index in wraps else "n"}">{cell}</td>' for index, cell in enumerate(cells))
    return f'<tr class="{kind}">{shown}</tr>'


def _ms(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g} ms"


def _mb(value: int | None) -> str:
    if value is None:
        return ""
    return f"{value / 2**20:.1f} MB" if value >= 2**20 else f"{value / 2**10:.1f} KB"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _plotly() -> tuple[Any, Any]:
    try:
        from plotly import graph_objects, offline
    except ImportError as error:
        raise Unavailable(
            f"the page needs plotly ({error}); install it with: pip install 'edgeloop[toolchain]'"
        ) from error
    return graph_objects, offline
