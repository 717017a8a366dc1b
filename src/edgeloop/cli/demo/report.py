"""The demo's figures: what they are, and how people see them. Nothing here is measured or made up: see `loop`."""

import msgspec

from edgeloop.cli.show import console, percent, show_table, size


class VersionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A version. accuracy, size_bytes: of its int8 LiteRT variant; *_float: of its float LiteRT variant."""

    name: str
    accuracy_float: float
    accuracy: float
    size_float_bytes: int
    size_bytes: int
    latency_p50_ms: float
    latency_p99_ms: float
    parent: str | None


class DeviceRow(msgspec.Struct, frozen=True, kw_only=True):
    """A device. accuracy_*: of the variant that it ran, on held-out digits through its camera. bytes_*: of samples."""

    id: str
    via: str
    drifted: bool
    drift_seen: bool
    engine: str
    readings: int
    offline_readings: int
    lost: int
    duplicated: int
    accuracy_before: float
    accuracy_after: float
    latency_p50_ms: float
    latency_p99_ms: float
    samples_up: int
    bytes_up: int
    bytes_if_all: int


class RolloutRow(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout. waves: cumulative device counts."""

    version: str
    waves: tuple[int, ...]
    outcome: str
    reason: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the demo says it shows, with what came out."""

    claim: str
    value: str
    held: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a run."""

    versions: tuple[VersionRow, ...]
    devices: tuple[DeviceRow, ...]
    rollouts: tuple[RolloutRow, ...]
    labels_used: int
    claims: tuple[Claim, ...]
    cloud_away_s: float
    wall_s: float = 0.0
    peak_memory_mb: float = 0.0

    def with_costs(self, *, wall_s: float, peak_memory_mb: float) -> "Report":
        """The same, with what the run took."""
        return msgspec.structs.replace(self, wall_s=wall_s, peak_memory_mb=peak_memory_mb)


def show_report(report: Report) -> None:
    """The tables."""
    show_table(
        "versions",
        ("version", "right: float", "int8", "size: float", "int8", "p50 ms", "p99 ms", "parent"),
        [
            (
                v.name,
                percent(v.accuracy_float),
                percent(v.accuracy),
                size(v.size_float_bytes),
                size(v.size_bytes),
                f"{v.latency_p50_ms:.2f}",
                f"{v.latency_p99_ms:.2f}",
                v.parent or "-",
            )
            for v in report.versions
        ],
        note="right: on held-out digits that no training and no device saw; latency of int8 in a clean process",
    )
    show_table(
        "devices",
        ("device", "engine", "readings", "offline", "lost", "doubled", "p50 ms", "p99 ms"),
        [
            (
                _name(row),
                row.engine,
                str(row.readings),
                str(row.offline_readings),
                str(row.lost),
                str(row.duplicated),
                f"{row.latency_p50_ms:.2f}",
                f"{row.latency_p99_ms:.2f}",
            )
            for row in report.devices
        ],
        note=f"offline: made while the cloud was dead ({report.cloud_away_s:.1f} s); * the camera mounted wrong",
    )
    show_table(
        "what was sent up, and what it was good for",
        ("device", "samples up", "of all bytes", "right with v1", "with v2"),
        [
            (
                _name(row),
                f"{row.samples_up}, {size(row.bytes_up)}",
                f"{row.bytes_up / row.bytes_if_all:.1%} of {size(row.bytes_if_all)}" if row.bytes_if_all else "-",
                percent(row.accuracy_before),
                percent(row.accuracy_after),
            )
            for row in report.devices
        ],
        note="right: on held-out digits, seen through that device's camera, by the variant that it runs",
    )
    show_table(
        "rollouts",
        ("version", "waves", "outcome", "reason"),
        [(r.version, " → ".join(str(w) for w in r.waves), r.outcome, r.reason) for r in report.rollouts],
    )
    show_table(
        "what the loop showed",
        ("", "claim", "came out"),
        [("[green]✓[/]" if c.held else "[red]✗[/]", c.claim, c.value) for c in report.claims],
    )
    console.print(
        f"{report.labels_used} labels, {report.wall_s:.0f} s, {report.peak_memory_mb:,.0f} MB at most", highlight=False
    )


def _name(row: DeviceRow) -> str:
    return f"{row.id} *" if row.drifted else row.id
