"""The points at which something is written for good, and a disk that is full at exactly one of them.

The product's function is left as it is; the first time that it is called, the disk is filled before it begins.
"""

import importlib
from pathlib import Path
from typing import Any

import msgspec

from torture import disk


class Point(msgspec.Struct, frozen=True):
    """A write point: whose it is, and the function that writes, as "module:name" or "module:Class.name"."""

    role: str
    place: str


POINTS = {
    "shelf part": Point("device", "edgeloop.bundle.shelf:Shelf.append_part"),
    "shelf finish": Point("device", "edgeloop.bundle.shelf:Shelf.finish_part"),
    "manifest": Point("device", "edgeloop.bundle.shelf:Shelf.put_manifest"),
    "versions switch": Point("device", "edgeloop.device.state:Versions.switch"),
    "going back": Point("device", "edgeloop.device.state:Versions.go_back"),
    "start after a clean stop": Point("device", "edgeloop.device.state:Versions.begin"),
    "trust metadata": Point("device", "edgeloop.transport.trust:Trust.assignment"),
    "outbox append": Point("device", "edgeloop.transport.outbox:Outbox.append"),
    "keep": Point("device", "edgeloop.transport.keep:Keep.set"),
    "races folder": Point("device", "edgeloop.device.examine:examine"),
    "node cache": Point("node", "edgeloop.node.cache:Cache._refresh"),
    "node outbox": Point("node", "edgeloop.transport.outbox:Outbox.accept"),
    "cloud database": Point("cloud", "edgeloop.cloud.store.inbox:add_events"),
    "cloud blobs": Point("cloud", "edgeloop.cloud.store.blobs:Blobs.put"),
}


def fill_at(name: str, mounted: str) -> None:
    """In this process: fill the disk that is mounted there when the point is reached first. No name: never."""
    if not name:
        return
    module, _, path = POINTS[name].place.partition(":")
    holder: Any = importlib.import_module(module)
    *above, last = path.split(".")
    for part in above:
        holder = getattr(holder, part)
    honest = getattr(holder, last)

    def filling(*arguments: Any, **named: Any) -> Any:
        if not was_reached(Path(mounted)):
            disk.fill(Path(mounted))
            _flag(Path(mounted)).touch()
        return honest(*arguments, **named)

    setattr(holder, last, filling)


def was_reached(mounted: Path) -> bool:
    """Whether the point was reached, and the disk filled."""
    return _flag(mounted).exists()


def forget(mounted: Path) -> None:
    """Ready for the next point."""
    _flag(mounted).unlink(missing_ok=True)


def _flag(mounted: Path) -> Path:
    """Beside the disk, which has no room for it."""
    return mounted.with_name("was-full")
