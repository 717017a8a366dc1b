"""A node's settings, with units in their names."""

from dataclasses import dataclass, field
from pathlib import Path

from edgeloop.hub.serve import Listen
from edgeloop.transport.worth import Bounds


@dataclass(frozen=True)
class NodeConfig:
    """One node. folder holds its whole state: identity, cache, outbox, and what it trusts.

    answers: predicts for its devices with the models that are signed, where it has an engine; False: it carries every
    question up.
    """

    folder: Path
    listen: Listen = field(default_factory=lambda: Listen(port=8401))
    sync_wait_s: float = 25.0
    send_every_s: float = 0.2
    longest_backoff_s: float = 30.0
    outbox: Bounds = field(
        default_factory=lambda: Bounds(max_bytes=4 * 1024 * 1024 * 1024, keep_free_bytes=512 * 1024 * 1024)
    )
    answers: bool = True
