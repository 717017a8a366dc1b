"""A device's settings, with units in their names."""

from dataclasses import dataclass, field
from pathlib import Path

from edgeloop.contracts.manifest import EngineName
from edgeloop.transport.worth import Bounds

_LOAD_S = 30.0
"""Also where a trial has less: a machine that has just been switched on is slower."""


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
    """How a version is tried: so many threads or any, raced for so long, the winner remembered in this folder.

    accept_s: the longest that a version may take for all of it: loading, golden samples, race and timing, of all the
    variants that are tried. answer_s: at work, for one frame; a process that takes longer is ended. cache: see
    DeviceConfig.
    """

    races: Path
    threads: int | None = None
    race_s: float = 0.0
    accept_s: float = 45.0
    answer_s: float = 10.0
    cache: bool = True

    @property
    def load_s(self) -> float:
        """For loading it, at work: what passed its trial did so within accept_s, with all else that a trial is."""
        return max(_LOAD_S, self.accept_s)


@dataclass(frozen=True)
class Patience:
    """How long a state of an update may last.

    download_s: of work; while the hub is away nothing counts. verify_s: for reading what was fetched. note_every_s: how
    often what was spent is written down, for the next start.
    """

    download_s: float = 86_400.0
    verify_s: float = 600.0
    note_every_s: float = 15.0


@dataclass(frozen=True)
class DeviceConfig:
    """One device. folder holds its whole state.

    source: what it senses, as `runtime.sources` takes it: a camera's number or path, a URL, a folder, a file; None for
    nothing. cache: inputs that do not change are not computed again, within the bound that the manifest states.
    threads: of an engine, chosen by measurement unless told. race_s: for measuring a new version's settings, 0 for
    not at all. answer_s: the longest that a version may take for one frame. keep_versions: that stay on the disk, the
    one that runs among them; two at least. outbox: how much waits here, and for how long. day_bytes: what downloads,
    readings and samples may use of the link a day, which begins at day_begins_h o'clock UTC; 0 for no limit.
    sample_key: where the keys come from that samples are sealed with on the disk, as `transport.seal` takes it; None
    for not sealed.
    """

    folder: Path
    source: str | None = None
    rate_hz: float = 0.0
    cache: bool = True
    engines: tuple[EngineName, ...] = ()
    threads: int | None = None
    race_s: float = 1.0
    accept_s: float = 45.0
    answer_s: float = 10.0
    patience: Patience = field(default_factory=Patience)
    keep_versions: int = 3
    sync_wait_s: float = 25.0
    send_every_s: float = 0.5
    longest_backoff_s: float = 30.0
    outbox: Bounds = field(default_factory=Bounds)
    day_bytes: int = 0
    day_begins_h: int = 0
    shadow_share: float = 1.0
    select: SelectConfig = field(default_factory=SelectConfig)
    sample_key: str | None = None
    seed: int = 0
