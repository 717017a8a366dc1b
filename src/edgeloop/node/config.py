"""A node's settings, with units in their names."""

from dataclasses import dataclass, field
from pathlib import Path

from edgeloop.hub.serve import Listen


@dataclass(frozen=True)
class NodeConfig:
    """One node. folder holds its whole state: identity, cache, outbox."""

    folder: Path
    listen: Listen = field(default_factory=lambda: Listen(port=8401))
    sync_wait_s: float = 25.0
    send_every_s: float = 0.2
    longest_backoff_s: float = 30.0
    outbox_max_bytes: int = 4 * 1024 * 1024 * 1024
