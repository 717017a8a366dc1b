"""What a crash says of the version that runs: of the process in which it answers, and of the agent's own. Pure.

Rules kept here: a version that is on watch goes back after one crash, for good, and after three kills that left no
trace, such as the system's where memory runs out, for now; a version that was trusted goes back after three crashes in
a row, each within a minute of a start, for now: it is what runs below it that changed. A kill or a power cut alone is
no trusted version's fault. While another version is being tried, a crash of the agent is that one's, see `update`.

A model runs in a process of its own; in the agent's there is what reads the source and encodes samples, and of these a
version decides how they are used.
"""

import msgspec

from edgeloop.contracts.states import UpdateState
from edgeloop.device.state import Deaths, Ended, Update

STEADY_S = 60.0
"""A process that lived for so long does not crash in a loop."""

MOST_ENDS = 3


class Blame(msgspec.Struct, frozen=True):
    """Go back. for_good: and never try this content again."""

    reason: str
    for_good: bool


def on_watch(deaths: Deaths, *, has_older: bool) -> Blame | None:
    """Whether a version on watch goes back for what became of its processes."""
    if deaths.crash:
        return Blame(deaths.crash, for_good=True)
    # Where there is nothing to go back to, going on is the only way to hear of something better.
    if deaths.kills >= MOST_ENDS and has_older:
        return Blame(f"killed {deaths.kills} times while it was on watch: {deaths.kill}", for_good=False)
    return None


def trusted(deaths: Deaths, *, has_older: bool) -> Blame | None:
    """The same of a version that was trusted."""
    if deaths.crashes < MOST_ENDS or not has_older:
        return None
    return Blame(f"crashed {deaths.crashes} times in a row: {deaths.crash}", for_good=False)


def agent_on_watch(ended: Ended, *, ends: int, has_older: bool) -> Blame | None:
    """Whether a version on watch goes back for how the agent's process ended. ends: how often that did not survive it,
    this one among them."""
    if ended.is_clean:
        return None
    if ended.crash:
        return Blame(f"the agent's process crashed while it was on watch: {ended.crash}", for_good=True)
    if ends >= MOST_ENDS and has_older:
        return Blame(
            f"the agent's process was killed {ends} times while it was on watch, as the system does when memory runs "
            "out",
            for_good=False,
        )
    return None


def agent_trusted(ended: Ended, update: Update | None, *, crashes: int, has_older: bool) -> Blame | None:
    """Whether a version that was trusted goes back for it. crashes: in a row, this one among them."""
    if not counts_against_trusted(ended, update) or crashes < MOST_ENDS or not has_older:
        return None
    return Blame(f"the agent's process crashed {crashes} times in a row: {ended.crash}", for_good=False)


def counts_against_trusted(ended: Ended, update: Update | None) -> bool:
    """A crash, and no other version was just being tried."""
    return bool(ended.crash) and (update is None or update.state is not UpdateState.ACCEPTING)
