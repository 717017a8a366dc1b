"""What every work is given, and how a work stands in the list of them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import Row
from edgeloop.toolchain.progress import Progress

_EVERY_S = 15.0


@dataclass(frozen=True)
class Context:
    """assets: public models and data. cache: trained float models and staged data. scratch: what a work makes; its
    own sub-folder is its to empty. budget_min: of one search. tell: told a line for people."""

    assets: Path
    cache: Path
    scratch: Path
    budget_min: float
    tell: Callable[[str], None]

    def progress(self, work: str) -> Progress:
        """How far a step of edgeloop's is, told now and then: steps speak many times a second."""
        told_s = 0.0

        def tell(share: float, message: str) -> None:
            nonlocal told_s
            if time.monotonic() - told_s >= _EVERY_S:
                told_s = time.monotonic()
                self.tell(f"{work}: {100 * share:3.0f} %, {message}")

        return tell


@dataclass(frozen=True)
class Work:
    """One work: its name, what it does in a line, and its rows, each as soon as it is known."""

    name: str
    title: str
    rows: Callable[[Context], Iterator[Row]]
