"""A row of the figures table, when it counts as reached, and the file that keeps rows as they come.

A row is one figure: `ours` and `theirs` in the same unit (the figure's name says which), `ratio` = ours / theirs,
`target` the bound on what `figure` is held to. `met`: true or false where it was measured, null where it could not be
run or no bound is set; `note` says why, and how it was measured where that is not plain.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

Number = float | int | None

_AXES = ("size_bytes", "latency_ms", "accuracy")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of one work, ours beside one peer's."""

    work: str
    figure: str
    peer: str
    ours: Number = None
    theirs: Number = None
    ratio: float | None = None
    target: Number | str = None
    met: bool | None = None
    note: str = ""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where one model stands: the axes of the front. accuracy: share right of the judging set, 0 to 1."""

    size_bytes: int
    latency_ms: float
    accuracy: float


def at_most(work: str, figure: str, peer: str, *, ours: float, theirs: Number, bound: float, note: str = "") -> Row:
    """A row whose `ours` must not lie above `bound`."""
    return Row(
        work=work,
        figure=figure,
        peer=peer,
        ours=ours,
        theirs=theirs,
        ratio=_ratio(ours, theirs),
        target=bound,
        met=ours <= bound,
        note=note,
    )


def at_least(work: str, figure: str, peer: str, *, ours: float, theirs: Number, bound: float, note: str = "") -> Row:
    """A row whose `ours` must not lie below `bound`."""
    row = at_most(work, figure, peer, ours=ours, theirs=theirs, bound=bound, note=note)
    return msgspec.structs.replace(row, met=ours >= bound)


def ratio_at_most(
    work: str, figure: str, peer: str, *, ours: float, theirs: float, bound: float, note: str = ""
) -> Row:
    """A row whose ours / theirs must not lie above `bound`."""
    row = at_most(work, figure, peer, ours=ours, theirs=theirs, bound=bound, note=note)
    return msgspec.structs.replace(row, target=f"ratio <= {bound:.4g}", met=ours <= bound * theirs)


def not_run(work: str, figure: str, peer: str, reason: str) -> Row:
    """A row that could not be run."""
    return Row(work=work, figure=figure, peer=peer, note=reason)


def failed(work: str, error: BaseException) -> Row:
    """The row of a work that broke: it counts as not reached."""
    lines = str(error).strip().splitlines() or [""]
    return Row(work=work, figure="run", peer="", met=False, note=f"failed: {type(error).__name__}: {lines[0][:300]}")


def dominates(one: Standing, other: Standing) -> bool:
    """Whether `one` is at least as good on every axis and better on one (Pareto dominance)."""
    at_least_as_good = (
        one.size_bytes <= other.size_bytes,
        one.latency_ms <= other.latency_ms,
        one.accuracy >= other.accuracy,
    )
    return all(at_least_as_good) and one != other


def beside(work: str, peer: str, ours: Standing, theirs: Standing) -> list[Row]:
    """Three rows, one an axis; all are met unless the peer dominates us."""
    met = not dominates(theirs, ours)
    return _axes(work, peer, ours, theirs, met=met)


def alone(work: str, peer: str, theirs: Standing) -> list[Row]:
    """Three rows of a peer where we have nothing to set beside it: missed."""
    return _axes(work, peer, None, theirs, met=False)


def _axes(work: str, peer: str, ours: Standing | None, theirs: Standing, *, met: bool) -> list[Row]:
    mine: tuple[Number, ...] = _figures(ours) if ours is not None else (None,) * len(_AXES)
    return [
        Row(
            work=work,
            figure=figure,
            peer=peer,
            ours=own,
            theirs=other,
            ratio=None if own is None else _ratio(own, other),
            target="not dominated",
            met=met,
        )
        for figure, own, other in zip(_AXES, mine, _figures(theirs), strict=True)
    ]


def _figures(standing: Standing) -> tuple[float, ...]:
    return standing.size_bytes, standing.latency_ms, standing.accuracy


class Ledger:
    """Rows on disk: the whole file is written anew, atomically, at each row, so that a kill keeps what there is.

    Rows of works that are not run this time stay as they were.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def rows(self) -> Sequence[Row]:
        """All rows, in the order in which they came."""
        return msgspec.json.decode(self._path.read_bytes(), type=list[Row]) if self._path.is_file() else []

    def begin(self, work: str) -> None:
        """Forget the rows of a work that is about to be run again."""
        self._write([row for row in self.rows if row.work != work])

    def add(self, row: Row) -> None:
        """Keep a row."""
        self._write([*self.rows, row])

    def _write(self, rows: Sequence[Row]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f"{self._path.name}.partial")
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
        partial.replace(self._path)


def _ratio(ours: float, theirs: Number) -> float | None:
    return ours / theirs if theirs else None
