"""A row of the table, and the file that keeps rows as they come.

`runs`: how often it was broken. `result`: what came of it, in words. `met`: whether that is what the target asks; null
where it was not run, or not as often as was asked. `control_failed`: whether the same test caught every promise that
was broken on purpose; null where there is none, or it was not run, or skipped.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.table import Table

_MET = {True: "yes", False: "[bold red]NO[/]", None: "-"}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One test. work: the part of the bench that it belongs to. seconds: that it took."""

    work: str
    test: str
    runs: int = 0
    result: str = ""
    target: str = ""
    met: bool | None = None
    control_failed: bool | None = None
    seconds: float = 0.0
    note: str = ""


def keep(path: Path, work: str, rows: Sequence[Row]) -> Sequence[Row]:
    """Put a work's rows in place of those of its run before, atomically; returns all rows of the file."""
    before = msgspec.json.decode(path.read_bytes(), type=list[Row]) if path.is_file() else []
    kept = [*(row for row in before if row.work != work), *rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
    partial.replace(path)
    return kept


def table(rows: Sequence[Row]) -> Table:
    """For people."""
    made = Table(title="torture", title_justify="left", header_style="dim", pad_edge=False)
    for column in ("test", "runs", "result", "target", "met", "control failed", "s"):
        made.add_column(column, justify="right" if column in ("runs", "s") else "left")
    for row in rows:
        fails = "-" if row.control_failed is None else _MET[row.control_failed]
        cells = (row.test, f"{row.runs:,}", row.result, row.target, _MET[row.met], fails, f"{row.seconds:.0f}")
        made.add_row(*cells)
    return made
