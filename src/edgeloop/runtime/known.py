"""The accelerators that were found here, remembered: to find them takes seconds and starts processes.

`edgeloop doctor` and `edgeloop bench` look for them; races take those that are known, on this machine with these
libraries. Neighbours: `engines.accelerators` finds and tries them, `remembered` keeps the answer.
"""

from pathlib import Path

from edgeloop.runtime.engines.settings import Found
from edgeloop.runtime.remembered import cache_folder, key_of, recall, remember


def known_accelerators(folder: Path | None = None) -> tuple[Found, ...]:
    """Those that were found when somebody looked; none if nobody did. folder: where that is remembered."""
    return recall(folder or cache_folder(), key_of("accelerators"), tuple[Found, ...]) or ()


def look_for_accelerators(folder: Path | None = None) -> tuple[Found, ...]:
    """Find and try them now, and remember; those that do not work are among them, with their problem."""
    from edgeloop.runtime.engines.accelerators import find_accelerators

    found = find_accelerators()
    remember(folder or cache_folder(), key_of("accelerators"), found)
    return found
