"""How a server works, with units in the names."""

from dataclasses import dataclass, field
from pathlib import Path

from edgeloop.hub.serve import Listen
from edgeloop.runtime.outcome import RACE_S
from edgeloop.runtime.pool import PoolSettings
from edgeloop.serve.askers import BodyLimits


@dataclass(frozen=True)
class ServeConfig:
    """One server. bundles: what it answers for from the start. watch: a folder of bundles that may be loaded later.

    engine, threads, race_s: see `edgeloop.load`; threads are of one inference: None for what is
    measured to be best, 1 where many ask. deadline_s: of a request that names none.
    bodies: of requests. connections: at once. drain_s: how long requests under way are waited for at the end.
    """

    bundles: tuple[Path, ...]
    watch: Path | None = None
    listen: Listen = field(default_factory=lambda: Listen(port=8402))
    pool: PoolSettings = field(default_factory=PoolSettings)
    engine: str | None = None
    threads: int | None = None
    race_s: float = RACE_S
    deadline_s: float = 10.0
    bodies: BodyLimits = field(default_factory=BodyLimits)
    connections: int = 2048
    watch_every_s: float = 1.0
    drain_s: float = 30.0
