"""An outbox is opened, whatever became of its file.

Neighbours: `outbox`, and `salvage`, which saves what can be read.
"""

import time
from pathlib import Path

import structlog

from edgeloop.contracts.errors import Corrupt
from edgeloop.contracts.messages import Alert
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.salvage import begin_anew
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
