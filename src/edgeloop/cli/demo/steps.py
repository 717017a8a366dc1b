"""What the demo shows while it runs: what is being done, how far it is, how long it took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Steps:
    """A line for each step that is done, and a live bar for the one under way."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[detail]}"),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._done = ""

    def __enter__(self) -> "Steps":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One step; `tell` says how far it is, `done` what came of it."""
        started_s = time.monotonic()
        self._task = self._progress.add_task(title, total=1.0, detail="")
        self._done = ""
        try:
            yield
        finally:
            self._progress.remove_task(self._task)
        took_s = time.monotonic() - started_s
        self._console.print(f"[green]✓[/] {title} [dim]({took_s:.1f} s)[/] {self._done}", highlight=False)

    def tell(self, share: float, detail: str = "") -> None:
        """How far the step is, 0 to 1."""
        if self._task is not None:
            self._progress.update(self._task, completed=share, detail=detail)

    def done(self, what: str) -> None:
        """What the step came to, for its line."""
        self._done = what
