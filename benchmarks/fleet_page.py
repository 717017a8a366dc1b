"""Put the growth from build/bench-fleet.json into docs/scale.md, as a table and a picture: -m benchmarks.fleet_page

The picture is SVG written by hand: three small panels over the number of devices, the target as a dashed line.
"""

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.command import BUILD
from benchmarks.fleet import Row

PAGE = Path("docs/scale.md")
PICTURE = Path("docs/images/scale.svg")
_MARKS = ("<!-- growth -->", "<!-- /growth -->")
_STEADY = re.compile(r"steady (?P<devices>[0-9,]+): (?P<figure>.+)")
_FIGURES = {"cloud's share of a core": 0.6, "p99 of sync, ms": 50.0, "cloud's memory, MB": None}
_WIDTH, _HEIGHT, _LEFT, _TOP = 230, 150, 50, 40


def growth(rows: Sequence[Row]) -> dict[int, dict[str, float]]:
    """Figures by number of devices."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        named = _STEADY.fullmatch(row.work)
        if named is not None and row.result is not None:
            found.setdefault(int(named["devices"].replace(",", "")), {})[named["figure"]] = row.result
    return dict(sorted(found.items()))


def told(value: float) -> str:
    """Three digits that count, and never an exponent.

    >>> told(0.02925), told(130.5), told(30_700.0)
    ('0.0293', '130', '30,700')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(found: dict[int, dict[str, float]], others: Sequence[Row]) -> str:
    """The growth as Markdown, and the other figures below it."""
    lines = ["| devices | " + " | ".join(_FIGURES) + " |", "|---|" + "---|" * len(_FIGURES)]
    for devices, figures in found.items():
        cells = (told(figures[name]) if name in figures else "-" for name in _FIGURES)
        lines.append(f"| {devices:,} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"![growth]({PICTURE.relative_to(PAGE.parent)})",
        "",
        "| work | result | target | met |",
        "|---|---|---|---|",
    ]
    for row in others:
        result = told(row.result) if row.result is not None else "not reached" if row.runs else "not run"
        met = {True: "yes", False: "no", None: ""}[row.met]
        lines.append(f"| {row.work} | {result} | {row.target} | {met} |")
    return "\n".join(lines)


def picture(found: dict[int, dict[str, float]]) -> str:
    """The growth as SVG; both axes of devices logarithmic, values from zero."""
    panels = [
        _panel(name, bound, [(devices, figures[name]) for devices, figures in found.items() if name in figures], index)
        for index, (name, bound) in enumerate(_FIGURES.items())
    ]
    width = len(_FIGURES) * (_WIDTH + _LEFT) + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_HEIGHT + 80}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>{"".join(panels)}</svg>\n'
    )


def _panel(name: str, bound: float | None, points: list[tuple[int, float]], index: int) -> str:
    left, highest = _LEFT + index * (_WIDTH + _LEFT), max([value for _, value in points] + [bound or 0.0, 1e-9]) * 1.1
    logs = [math.log10(devices) for devices, _ in points] or [0.0]
    span = max(logs) - min(logs) or 1.0

    def x(devices: int) -> float:
        return left + (_WIDTH - 30) * (math.log10(devices) - min(logs)) / span

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (1 - value / highest)

    base = _TOP + _HEIGHT
    parts = [f'<text x="{left}" y="{_TOP - 15}" font-weight="bold">{name}</text>']
    parts.append(f'<path d="M{left},{_TOP} V{base} H{left + _WIDTH - 20}" fill="none" stroke="#888"/>')
    if bound is not None:
        parts.append(
            f'<path d="M{left},{y(bound):.1f} H{left + _WIDTH - 20}" stroke="#c33" stroke-dasharray="4"/>'
            f'<text x="{left - 4}" y="{y(bound) + 4:.1f}" text-anchor="end" fill="#c33">{bound:g}</text>'
        )
    line = " ".join(f"{x(devices):.1f},{y(value):.1f}" for devices, value in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#246" stroke-width="2"/>')
    for devices, value in points:
        parts.append(
            f'<circle cx="{x(devices):.1f}" cy="{y(value):.1f}" r="3" fill="#246"/>'
            f'<text x="{x(devices) + 5:.1f}" y="{y(value) - 5:.1f}">{told(value)}</text>'
            f'<text x="{x(devices):.1f}" y="{base + 15}" text-anchor="middle">{devices:,}</text>'
        )
    return "".join(parts)


def main() -> int:
    """The exit code: 1 where nothing was measured yet."""
    source = BUILD / "bench-fleet.json"
    if not source.is_file():
        sys.stderr.write(f"{source} is missing: run make bench-fleet first\n")
        return 1
    rows = msgspec.json.decode(source.read_bytes(), type=dict[str, list[Row]])
    found = growth(rows.get("steady", []))
    others = [row for work in rows.values() for row in work if not _STEADY.fullmatch(row.work)]
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(found), encoding="utf-8")
    begin, _, rest = PAGE.read_text(encoding="utf-8").partition(_MARKS[0])
    end = rest.partition(_MARKS[1])[2]
    PAGE.write_text(f"{begin}{_MARKS[0]}\n{table(found, others)}\n{_MARKS[1]}{end}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
