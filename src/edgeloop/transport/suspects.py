"""Events for whose sake a hub seems to fail, and when that is believed.

A hub that fails (500), or calls a batch corrupt (422), may do so for one event's sake, or for its own. Rules kept here:
an event is to blame only after it stood alone in a batch that failed, so many times, with so many batches of others
taken after each; a hub that takes nothing blames nobody. Neighbour: `sender` asks.
"""

from dataclasses import dataclass

TRIES = 3
"""Alone and in vain, before an event is to blame."""
PASSES = 4
"""Batches of others that a hub must take after each of these."""
_MOST = 16
"""Suspects at once. Where there are more, the hub fails for whatever it is sent."""


@dataclass
class _Suspect:
    reason: str
    failures: int = 0
    passed: int = 0


class Suspects:
    """Rows under suspicion. Not to be used from two threads at once."""

    def __init__(self) -> None:
        self._rows: dict[int, _Suspect] = {}

    @property
    def rows(self) -> tuple[int, ...]:
        """Those that go into no batch with others; who failed longest ago comes first."""
        return tuple(self._rows)

    def failed(self, row: int, reason: str) -> None:
        """A batch of this row alone failed."""
        before = self._rows.pop(row, None)
        suspect = self._rows[row] = before or _Suspect(reason)
        if before is None or before.passed >= PASSES:
            suspect.failures += 1
            suspect.passed = 0
        if len(self._rows) > _MOST:
            self.clear(next(iter(self._rows)))

    def others_passed(self) -> None:
        """The hub took a batch of others."""
        for suspect in self._rows.values():
            suspect.passed += 1

    def clear(self, row: int) -> None:
        """The row is no suspect any more."""
        self._rows.pop(row, None)

    def due(self) -> int | None:
        """A row that is to be tried alone once more, if there is one."""
        found = (row for row, one in self._rows.items() if one.failures < TRIES and one.passed >= PASSES)
        return next(found, None)

    def guilty(self) -> dict[int, str]:
        """Rows that are to blame, and why."""
        return {row: one.reason for row, one in self._rows.items() if one.failures >= TRIES and one.passed >= PASSES}
