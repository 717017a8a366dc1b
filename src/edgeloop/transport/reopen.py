"""An outbox, or a node's record, is opened, whatever became of its file.

Neighbours: `outbox` and `keep`, and `salvage`, which saves what can be read.
"""

import time
from pathlib import Path

import msgspec
import structlog

from edgeloop.contracts.errors import Corrupt
from edgeloop.contracts.messages import Alert
from edgeloop.transport.keep import Keep, open_sound
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.salvage import begin_anew, named_values, put_in_place, remove
from edgeloop.transport.seal import Keyring
from edgeloop.transport.worth import Bounds

_log = structlog.get_logger(__name__)


def open_or_begin_anew(path: Path, device_id: str, *, bounds: Bounds, keyring: Keyring | None = None) -> Outbox:
    """The outbox of this file or, where that is damaged, one with what can be read of it, so that nobody has to come
    and move a file away.

    The damaged file stays beside it, the newest one only, and an alert tells. What is found damaged at work is mended
    likewise. Raises what Outbox does, but Corrupt.
    """
    try:
        return Outbox(path, device_id, bounds=bounds, keyring=keyring, mends=True)
    except Corrupt as error:
        detail = begin_anew(path)
        _log.error("outbox_begun_anew", path=str(path), error=str(error), detail=detail)
        outbox = Outbox(path, device_id, bounds=bounds, keyring=keyring, mends=True)
        outbox.append([Alert(what="storage", detail=detail)], at_ms=int(time.time() * 1000))
        return outbox


def keep_what_is_readable(path: Path) -> tuple[Keep, str]:
    """The named values of this file or, where that is damaged, those of them that can be read; and what to tell of it,
    "" if all is well.

    The damaged file stays beside it, the newest one only. Raises what Keep does, but Corrupt, and Unavailable where the
    disk has no room for a new file.
    """
    try:
        return open_sound(path), ""
    except Corrupt as error:
        fresh = path.with_name(f"{path.name}.mended")
        remove(fresh)
        values = named_values(path)
        keep = Keep(fresh)
        try:
            keep.set({name: msgspec.Raw(value) for name, value in values.items()})
        finally:
            keep.close()
        beside = put_in_place(path, fresh)
        told = f"{path.name} was damaged: {len(values):,} of its values could be read. It lies beside as {beside.name}."
        _log.error("record_begun_anew", path=str(path), error=str(error), detail=told)
        return open_sound(path), told
