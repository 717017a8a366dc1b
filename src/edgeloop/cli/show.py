"""How commands speak to people: tables, shares and sizes. Neighbour: `say`, for machines and for services."""

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

console = Console()
"""Results, on standard output."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of tables.")]
Operator = Annotated[
    str, typer.Option("--operator", envvar="EDGELOOP_OPERATOR", help="The operator file that 'cloud init' wrote.")
]
OPERATOR_DEFAULT = "cloud/operator.json"


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, note: str = "") -> None:
    """A table; `note` stands below it."""
    shown = list(rows)
    if not shown:
        console.print(f"[bold]{title}[/]: none yet")
        return
    table = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")  # over two lines rather than cut off
    for row in shown:
        table.add_row(*row)
    console.print(table)
    if note:
        console.print(note, style="dim")


def percent(share: float | None) -> str:
    """A share for people."""
    return "-" if share is None else f"{100 * share:.1f} %"


def size(size_bytes: int) -> str:
    """A size for people."""
    if size_bytes < 10_000:
        return f"{size_bytes:,} B"
    return f"{size_bytes / 1024:,.0f} KB" if size_bytes < 10 * 1024 * 1024 else f"{size_bytes / 1024**2:,.1f} MB"
