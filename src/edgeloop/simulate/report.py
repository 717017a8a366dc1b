"""What a simulation came to, in figures. Pure."""

import msgspec

from edgeloop.simulate.plan import Plan
from edgeloop.simulate.tally import Tally


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time: what the devices saw in it, what the server's process cost. server_cores: processor seconds a
    second; None where the server's process cannot be looked at, as is server_peak_bytes.
    """

    seconds: float
    tally: Tally
    server_cores: float | None
    server_peak_bytes: int | None
    own_cores: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A window's figures. Latencies: from a request's last byte to the answer's first, without the link, and without
    the time that a sync asked to be held. Bytes: HTTP heads and bodies, without TCP and TLS.

    lagging_ms: by how much the simulation itself came late at worst; latencies are to be believed where it is small
    beside them.
    """

    seconds: float
    requests_per_s: float
    requests_a_device_hour: float
    up_bytes_a_device_hour: float
    down_bytes_a_device_hour: float
    sync_p50_ms: float | None
    sync_p99_ms: float | None
    send_p50_ms: float | None
    send_p99_ms: float | None
    readings_acknowledged_per_s: float
    errors: dict[str, int]
    server_cores: float | None
    server_peak_mb: float | None
    own_cores: float
    lagging_ms: float


class Spreading(msgspec.Struct, frozen=True, kw_only=True):
    """How a version reached the fleet: seconds from the begin of publishing to these shares of the devices having its
    files in hand; None where that was not reached in time.
    """

    bundle: str
    size_bytes: int
    devices: int
    reached: int
    to_half_s: float | None
    to_95_s: float | None
    to_all_s: float | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A whole simulation. steady: before anything was rolled out. updating: from then on."""

    plan: Plan
    enrolled: int
    enrolled_per_s: float
    steady: Figures
    updating: Figures | None = None
    spreading: Spreading | None = None


def figures(window: Window, plan: Plan) -> Figures:
    """The figures of a window."""
    tally = window.tally
    device_hours = plan.devices * window.seconds / 3600
    requests = sum(tally.requests.values())
    return Figures(
        seconds=window.seconds,
        requests_per_s=requests / window.seconds,
        requests_a_device_hour=requests / device_hours,
        up_bytes_a_device_hour=tally.up_bytes / device_hours,
        down_bytes_a_device_hour=tally.down_bytes / device_hours,
        sync_p50_ms=tally.quantile_ms("sync", 0.5),
        sync_p99_ms=tally.quantile_ms("sync", 0.99),
        send_p50_ms=tally.quantile_ms("send", 0.5),
        send_p99_ms=tally.quantile_ms("send", 0.99),
        readings_acknowledged_per_s=tally.acknowledged / window.seconds,
        errors=dict(sorted(tally.errors.items())),
        server_cores=window.server_cores,
        server_peak_mb=None if window.server_peak_bytes is None else window.server_peak_bytes / 1024**2,
        own_cores=window.own_cores,
        lagging_ms=tally.lagging_ms,
    )


def spreading(reached_s: list[float], *, since_s: float, plan: Plan, bundle: str, size_bytes: int) -> Spreading:
    """How a version spread. reached_s: when devices had it, by the clock of since_s."""
    after_s = sorted(at_s - since_s for at_s in reached_s)

    def to(share: float) -> float | None:
        wanted = max(1, -int(-share * plan.devices // 1))
        return after_s[wanted - 1] if len(after_s) >= wanted else None

    return Spreading(
        bundle=bundle,
        size_bytes=size_bytes,
        devices=plan.devices,
        reached=len(after_s),
        to_half_s=to(0.5),
        to_95_s=to(0.95),
        to_all_s=to(1.0),
    )
