"""How long work tells how far it is."""

from collections.abc import Callable

Progress = Callable[[float, str], None]
"""Called with the share that is done, 0 to 1, and a line for people."""


def silent(_share: float, _message: str) -> None:
    """Tell nobody."""


def within(progress: Progress, start: float, stop: float) -> Progress:
    """A part of a longer piece of work, as its own 0 to 1."""

    def tell(share: float, message: str) -> None:
        progress(start + (stop - start) * share, message)

    return tell
