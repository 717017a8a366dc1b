"""How long work shows itself: a bar on standard error, which leaves standard output to results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def progress_bar(beginning: str) -> Iterator[Callable[[float, str], None]]:
    """A bar for the while; yields what tells it how far work is: a share, 0 to 1, and a line.

    Where standard error is no terminal, nothing is drawn.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(beginning, total=1.0)
        yield lambda share, line: bar.update(task, completed=share, description=line)
