"""A node's settings, with units in their names."""

from dataclasses import dataclass, field
from pathlib import Path

from edgeloop.hub.limits import Limits
from edgeloop.hub.serve import Listen
from edgeloop.transport.worth import Bounds


@dataclass(frozen=True)
class NodeConfig:
    """One node. folder holds its whole state: identity, cache, outbox, and what it trusts.

    answers: predicts for its devices with the models that are signed, where it has an engine; False: it carries every
    question up. sample_key: where the keys come from that samples are sealed with on the disk, as `transport.seal`
    takes it; None for not sealed. limits: of one device. day_bytes: what bundles' files, and readings and samples
    that are sent on, may use of the link above a day, which begins at day_begins_h o'clock UTC; 0 for no limit.
    """

    folder: Path
    listen: Listen = field(default_factory=lambda: Listen(port=8401))
    sync_wait_s: float = 25.0
    send_every_s: float = 0.2
    longest_backoff_s: float = 30.0
    outbox: Bounds = field(
        default_factory=lambda: Bounds(max_bytes=4 * 1024 * 1024 * 1024, keep_free_bytes=512 * 1024 * 1024)
    )
    day_bytes: int = 0
    day_begins_h: int = 0
    answers: bool = True
    sample_key: str | None = None
    limits: Limits = field(default_factory=Limits)
