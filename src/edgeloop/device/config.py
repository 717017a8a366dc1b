"""A device's settings, with units in their names."""

from dataclasses import dataclass, field
from pathlib import Path

from edgeloop.contracts.manifest import EngineName


@dataclass(frozen=True)
class SelectConfig:
    """What is worth sending, and how much of it.

    Shares are of the bytes that all inputs would be. unsure_below_margin, novel_above_std: when a reading counts
    as unsure, as novel. burst_readings: how many readings' worth of its share a class may save up and spend at once.
    """

    unsure_share: float = 0.04
    novel_share: float = 0.06
    audit_share: float = 0.02
    unsure_below_margin: float = 0.5
    novel_above_std: float = 2.5
    burst_readings: int = 60


@dataclass(frozen=True)
class Pace:
    """How an engine's setting is found: so many threads or any, raced for so long, remembered in this folder."""

    races: Path
    threads: int | None = None
    race_s: float = 0.0


@dataclass(frozen=True)
class DeviceConfig:
    """One device. folder holds its whole state; source is a folder of images, followed as files arrive.

    threads: of an engine, chosen by measurement unless told. race_s: for measuring a new version's settings, 0 for
    not at all.
    """

    folder: Path
    source: Path | None = None
    rate_hz: float = 0.0
    engines: tuple[EngineName, ...] = ()
    threads: int | None = None
    race_s: float = 1.0
    sync_wait_s: float = 25.0
    send_every_s: float = 0.5
    longest_backoff_s: float = 30.0
    outbox_max_bytes: int = 256 * 1024 * 1024
    shadow_share: float = 1.0
    select: SelectConfig = field(default_factory=SelectConfig)
    seed: int = 0
