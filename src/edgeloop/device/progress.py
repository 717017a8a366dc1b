"""How far an update has come: each state on the disk before its work begins, in the log, and told to the hub."""

import time
from collections.abc import Callable
from typing import Any

import structlog

from edgeloop.contracts.messages import Assignment
from edgeloop.contracts.states import UpdateState
from edgeloop.device.state import Update, Versions

_log = structlog.get_logger(__name__)


class Progress:
    """One device's updates as they go on. on_change: told of each state."""

    def __init__(self, versions: Versions, on_change: Callable[[], None]) -> None:
        self._versions = versions
        self._on_change = on_change

    def note(self, assignment: Assignment, state: UpdateState, **known: Any) -> Update:
        """Keep and tell it. known: other fields of Update; what its downloads took is kept from state to state."""
        before = self._versions.update
        download_s = 0.0
        if before is not None and before.assignment == assignment and not before.state.is_final:
            download_s = before.download_s
        update = Update(assignment=assignment, state=state, since_s=time.time(), download_s=download_s, **known)
        self._versions.note(update)
        self.tell(update)
        return update

    def tell(self, update: Update) -> None:
        """What is kept already."""
        _log.info("update", bundle=update.assignment.bundle, state=update.state, reason=update.reason)
        self._on_change()
