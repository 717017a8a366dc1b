"""The demo's figures: what they are, and how people see them. Nothing here is measured or made up: see `loop`."""

import msgspec

from edgeloop.cli.show import console, percent, show_table, size


class VersionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A version. accuracy: of its int8 variant on the held-out digits; accuracy_float: of the float model."""

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
        ("version", "accuracy float", "int8", "size float", "int8", "p50", "p99", "made from"),
        [
            (
                v.name,
                percent(v.accuracy_float),
                percent(v.accuracy),
                size(v.size_float_bytes),
                size(v.size_bytes),
                f"{v.latency_p50_ms:.3f} ms",
                f"{v.latency_p99_ms:.3f} ms",
                v.parent or "-",
            )
            for v in report.versions
        ],
        note="accuracy on held-out digits that no training and no device saw; latency in a clean process",
    )
    show_table(
        "devices",
        (
            "device",
            "engine",
            "readings",
            "offline",
            "lost",
            "doubled",
            "right with v1",
            "with v2",
            "p50",
            "p99",
            "samples up",
            "if all went up",
        ),
        [_device(row) for row in report.devices],
        note=f"offline: made while the cloud was dead ({report.cloud_away_s:.1f} s); * the camera mounted wrong",
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


def _device(row: DeviceRow) -> tuple[str, ...]:
    share = row.bytes_up / row.bytes_if_all if row.bytes_if_all else 0.0
    return (
        f"{row.id}{' *' if row.drifted else ''}",
        row.engine,
        str(row.readings),
        str(row.offline_readings),
        str(row.lost),
        str(row.duplicated),
        percent(row.accuracy_before),
        percent(row.accuracy_after),
        f"{row.latency_p50_ms:.3f} ms",
        f"{row.latency_p99_ms:.3f} ms",
        f"{row.samples_up}, {size(row.bytes_up)} ({share:.0%})",
        size(row.bytes_if_all),
    )
