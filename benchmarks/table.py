"""The figures as a table for people, what is to be said of them below it."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from benchmarks.rows import Number, Row

_MET = {True: "yes", False: "[bold red]NO[/]", None: "-"}


def table(rows: Sequence[Row], *, title: str) -> Table:
    """One line a row, in the order given."""
    made = Table(title=title, title_justify="left", header_style="dim", pad_edge=False)
    for column in ("work", "figure", "peer"):
        made.add_column(column)
    for column in ("ours", "theirs", "ratio", "target"):
        made.add_column(column, justify="right", no_wrap=True)
    made.add_column("met")
    for row in rows:
        made.add_row(
            row.work,
            row.figure,
            row.peer,
            shown(row.ours),
            shown(row.theirs),
            shown(row.ratio),
            row.target if isinstance(row.target, str) else shown(row.target),
            _MET[row.met],
        )
    return made


def notes(rows: Sequence[Row]) -> Iterator[str]:
    """What rows say beside their numbers, a line each."""
    return (
        " ".join(part for part in (row.work, row.figure, row.peer) if part) + f": {row.note}"
        for row in rows
        if row.note
    )


def shown(number: Number) -> str:
    """A number for people: whole ones with separators, others with four digits."""
    if number is None:
        return ""
    return f"{number:,}" if isinstance(number, int) else f"{number:.4g}"
