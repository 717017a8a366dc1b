"""Going back by hand, at the device: any kept version, without a network, with or without an agent at work.

An agent at work is told through its own record on the disk and does it within a second; without one, it is done here.
Neighbours: `update` grants the wish, `state` remembers it.
"""

import time
from pathlib import Path

from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Refused, Unavailable
from edgeloop.device.lock import is_at_work, only_agent
from edgeloop.device.state import Installed, Versions, Wish, by_hand, chosen_of
from edgeloop.transport.keep import Keep

_LOOK_EVERY_S = 0.1


def roll_back(folder: Path, version: str = "", *, within_s: float = 20.0) -> Installed:
    """Run a kept version from now on: NAME@VERSION, VERSION, or "" for the one that ran before.

    Raises NotFound if it is not kept, Refused if it does not load, Corrupt if its files are damaged, Unavailable if the
    agent did not do it in time; it does it when it gets to it.
    """
    keep = Keep(folder / "device.db")
    try:
        versions = Versions(keep)
        chosen = chosen_of(versions, version)
        _check_files(Shelf(folder / "bundles"), chosen)
        if not _done_here(folder, versions, chosen):
            _ask_agent(versions, chosen, within_s)
        return chosen
    finally:
        keep.close()


def _check_files(shelf: Shelf, chosen: Installed) -> None:
    bundle = shelf.open(chosen.ref)
    bundle.read(chosen.variant)


def _done_here(folder: Path, versions: Versions, chosen: Installed) -> bool:
    """Whether no agent is at work, so that it could be done here."""
    if is_at_work(folder):
        return False
    try:
        # Held all the while: an agent that starts meanwhile would run one version and remember another.
        with only_agent(folder):
            versions.choose(chosen, by_hand(chosen))
            versions.save()
    except Refused:  # one has just begun
        return False
    return True


def _ask_agent(versions: Versions, chosen: Installed, within_s: float) -> None:
    versions.want(Wish(bundle=chosen.bundle, at_s=time.time()))
    until_s = time.monotonic() + within_s
    while versions.wish is not None:
        if time.monotonic() > until_s:
            raise Unavailable(
                f"the agent did not go back to {chosen.bundle} within {within_s:.0f} s; it does as soon as it can"
            )
        time.sleep(_LOOK_EVERY_S)
    failed = versions.wish_failed
    if failed is not None:
        raise Refused(f"the agent cannot run {chosen.bundle}: {failed}")
