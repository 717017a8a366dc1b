"""What a race came to, as data: it is kept for the next start, and a predictor says what chose it."""

from typing import Annotated

import msgspec

from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.runtime.engines.port import Setting

RACE_S = 2.0
"""How long a race takes unless told."""


class Runner(msgspec.Struct, frozen=True, kw_only=True):
    """How one candidate did. latency_ms: its median, None if it did not run; failure: why it is out.

    rounds: how often it was timed.
    """

    variant: str
    engine: EngineName
    precision: Precision
    setting: Setting
    latency_ms: float | None = None
    rounds: int = 0
    failure: str | None = None


class Race(msgspec.Struct, frozen=True, kw_only=True):
    """A race's outcome: runners, the winner first. seconds: that it took; 0.0 of one that was remembered."""

    runners: Annotated[tuple[Runner, ...], msgspec.Meta(min_length=1)]
    seconds: float

    @property
    def winner(self) -> Runner:
        """Who answers soonest."""
        return self.runners[0]
