"""What an event is worth to those above, as data: its class, its value within that, and the bounds of a queue.

Rules kept here: a class outlives those below it (alerts over samples over readings); within readings the unsure ones
outlive the sure ones; of each label one audit sample outlives all other samples. Neighbour: `outbox` evicts by it.
"""

import math
from typing import NamedTuple

import msgspec

from edgeloop.contracts.messages import Alert, Body, Reading, Sample
from edgeloop.contracts.states import Reason

ALERT, SAMPLE, READING = "alert", "sample", "reading"
KINDS = (ALERT, SAMPLE, READING)
"""The classes of events, the most valuable first."""

ORDINARY, LAST_AUDIT, ALERTS = 0, 1, 2
"""Tiers, in the order in which they are given up: no row goes while one of a lower tier is left."""

_DAY_S = 86_400.0
_MOST_LETTERS = 200


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much a queue holds, and for how long.

    max_bytes: of all its rows, as they lie on the disk. keep_free_bytes: the queue does not grow while its file system
    has less than this. ttl_s: seconds after which a row of a class is given up, counted while the process runs; a class
    without one is kept for as long as there is room.
    """

    max_bytes: int = 256 * 1024 * 1024
    keep_free_bytes: int = 64 * 1024 * 1024
    ttl_s: dict[str, float] = msgspec.field(default_factory=lambda: {READING: 30 * _DAY_S, SAMPLE: 30 * _DAY_S})


NO_BOUNDS = Bounds(max_bytes=2**62, keep_free_bytes=0, ttl_s={})
"""For who looks into a queue that is another's: nothing is given up."""


class Worth(NamedTuple):
    """kind: its class. value: higher outlives lower within a tier. what: why it exists, for people and accounts."""

    kind: str
    value: float
    what: str


def worth(body: Body) -> Worth:
    """What is lost if this goes.

    >>> worth(Alert(what="drift", detail=""))
    Worth(kind='alert', value=100.0, what='drift')
    """
    if isinstance(body, Alert):
        return Worth(ALERT, 100.0, body.what[:_MOST_LETTERS])
    if isinstance(body, Sample):
        return Worth(SAMPLE, 50.0, body.reason)
    assert isinstance(body, Reading)
    margin = body.prediction.margin
    value = 10.0 * (1.0 - margin) if math.isfinite(margin) else 10.0
    return Worth(READING, value, body.prediction.bundle[:_MOST_LETTERS])


def is_audit(body: Body) -> bool:
    """Whether it is of the random audit, of which one of each label stays."""
    return isinstance(body, Sample) and body.reason is Reason.AUDIT
