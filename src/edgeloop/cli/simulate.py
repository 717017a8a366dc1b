"""A simulated fleet against a real cloud: the load test, and the planning tool."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.text import Text

from edgeloop.cli.say import emit_json
from edgeloop.cli.show import AsJson, console, show_table, size
from edgeloop.cli.units import parse_size_bytes
from edgeloop.contracts.errors import InvalidInput

if TYPE_CHECKING:
    from edgeloop.simulate.fleet import Fleet
    from edgeloop.simulate.plan import Plan
    from edgeloop.simulate.report import Figures, Report
    from edgeloop.simulate.run import Place

_OPERATOR = typer.Option("--operator", help="Of a cloud that runs already: its operator file.")


def simulate(
    devices: Annotated[int, typer.Option(min=1, max=100_000, help="How many devices.")] = 100,
    nodes: Annotated[int, typer.Option(min=0, max=1000, help="Real nodes between the devices and the cloud.")] = 0,
    link: Annotated[str, typer.Option(help="Each device's link: loopback, ethernet, wifi, lte, 3g or sat.")] = "wifi",
    faults: Annotated[str, typer.Option(help="What goes wrong: resets=2%,loss=1%,offline=5%, or some of it.")] = "",
    minutes: Annotated[float, typer.Option(min=0.1, max=1440, help="How long, once all are enrolled.")] = 3.0,
    beat_s: Annotated[float, typer.Option(min=1, max=60, help="How long a device's sync is held open.")] = 60.0,
    readings_hz: Annotated[float, typer.Option(min=0, max=1000, help="Readings a second of each device.")] = 1.0,
    send_every_s: Annotated[float, typer.Option(min=0.1, help="How often a device sends its readings.")] = 60.0,
    bundle_size: Annotated[str, typer.Option(help="The size of the stand-in bundle that is rolled out.")] = "250KB",
    checked: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the devices that check signatures as real ones do.")
    ] = 0.05,
    hub: Annotated[str | None, typer.Option(help="A hub that runs already, instead of a cloud of its own.")] = None,
    join: Annotated[str | None, typer.Option(help="A join token for that hub, good for all devices.")] = None,
    ca: Annotated[
        str | None, typer.Option(help="A certificate authority's PEM file, if that hub's is private.")
    ] = None,
    operator: Annotated[str | None, _OPERATOR] = None,
    bundle: Annotated[str | None, typer.Option(help="With --operator: NAME@VERSION to roll out.")] = None,
    seed: Annotated[int, typer.Option(help="Makes links and faults the same again.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run a fleet of true uplinks without engines against a real cloud, and print what it saw."""
    from edgeloop.simulate.plan import Plan, parse_faults, parse_link
    from edgeloop.simulate.run import simulate as run

    plan = Plan(
        devices=devices,
        nodes=nodes,
        link=parse_link(link),
        faults=parse_faults(faults),
        beat_s=beat_s,
        readings_per_s=readings_hz,
        send_every_s=send_every_s,
        checked=checked,
        seed=seed,
    )
    with (
        tempfile.TemporaryDirectory(prefix="edgeloop-simulate-", ignore_cleanup_errors=True) as name,
        _place(plan, Path(name), hub, join, ca, operator=operator, bundle=bundle, bundle_size=bundle_size) as place,
        Live(console=console, transient=True, refresh_per_second=4) as live,
    ):
        report = run(
            plan, place, minutes=minutes, folder=Path(name), on_look=lambda what, fleet: live.update(_line(what, fleet))
        )
    if as_json:
        emit_json(report)
    else:
        _show(report)


@contextmanager
def _place(
    plan: "Plan",
    folder: Path,
    hub: str | None,
    join: str | None,
    ca: str | None,
    *,
    operator: str | None,
    bundle: str | None,
    bundle_size: str,
) -> "Iterator[Place]":
    """Where it takes place, by what was given. Raises InvalidInput on options that do not go together."""
    from edgeloop.simulate.run import at_hub, at_operator, own_place
    from edgeloop.transport.cloud_api import read_operator

    size_bytes = parse_size_bytes(bundle_size)
    if (hub is None) != (join is None) or (hub is None and ca is not None):
        raise InvalidInput("--hub and --join go together (and --ca with them); 'edgeloop fleet token' prints a token")
    if hub is not None and operator is not None:
        raise InvalidInput("give --hub with --join, or --operator, which names the hub itself")
    if bundle is not None and operator is None:
        raise InvalidInput("--bundle is rolled out by an operator: give --operator, too")
    if hub is not None and join is not None:
        yield at_hub(hub, join, ca=ca)
    elif operator is not None:
        yield at_operator(plan, read_operator(operator), size_bytes=size_bytes, bundle=bundle)
    else:
        with own_place(plan, folder, size_bytes=size_bytes) as (place, _):
            yield place


def _line(what: str, fleet: "Fleet") -> Text:
    total = fleet.total
    p99_ms = total.quantile_ms("sync", 0.99)
    told = [
        what,
        f"{fleet.enrolled:,} of {fleet.plan.devices:,} enrolled",
        f"{sum(total.requests.values()):,} requests",
        f"{sum(total.errors.values()):,} failures",
        f"sync p99 {'-' if p99_ms is None else f'{p99_ms:.0f} ms'}",
        f"{total.acknowledged:,} readings",
        f"{len(total.reached):,} updated",
    ]
    if fleet.watched is not None:
        told.append(f"server {fleet.watched.memory_bytes() / 1024**2:.0f} MB")
    return Text(", ".join(told))


def _show(report: "Report") -> None:
    plan = report.plan
    show_table(
        f"{plan.devices:,} devices over {plan.link.name}" + (f", {plan.nodes} nodes" if plan.nodes else ""),
        ("", "steady", *(["updating"] if report.updating else [])),
        _rows([report.steady, *([report.updating] if report.updating else [])]),
        note=f"{report.enrolled:,} enrolled, {report.enrolled_per_s:,.0f} a second. Latencies without the link and "
        "without the time that a sync is held; bytes of HTTP, without TCP and TLS.",
    )
    spread = report.spreading
    if spread is not None:
        console.print(
            f"{spread.bundle} ({size(spread.size_bytes)}) in hand, from the begin of publishing: half of the devices "
            f"after {_s(spread.to_half_s)}, 95 % after {_s(spread.to_95_s)}, all after {_s(spread.to_all_s)} "
            f"({spread.reached:,} of {spread.devices:,})",
            highlight=False,
        )


def _rows(columns: "list[Figures]") -> list[tuple[str, ...]]:
    def row(title: str, *values: str) -> tuple[str, ...]:
        return (title, *values)

    return [
        row("seconds", *(f"{one.seconds:.0f}" for one in columns)),
        row("requests a second", *(f"{one.requests_per_s:,.1f}" for one in columns)),
        row("requests a device and hour", *(f"{one.requests_a_device_hour:,.0f}" for one in columns)),
        row("bytes up a device and hour", *(size(round(one.up_bytes_a_device_hour)) for one in columns)),
        row("bytes down a device and hour", *(size(round(one.down_bytes_a_device_hour)) for one in columns)),
        row("sync p50 / p99", *(f"{_ms(one.sync_p50_ms)} / {_ms(one.sync_p99_ms)}" for one in columns)),
        row("send p50 / p99", *(f"{_ms(one.send_p50_ms)} / {_ms(one.send_p99_ms)}" for one in columns)),
        row("readings committed a second", *(f"{one.readings_acknowledged_per_s:,.0f}" for one in columns)),
        row("server's share of a core", *(_percent(one.server_cores) for one in columns)),
        row("server's memory at most", *(_mb(one.server_peak_mb) for one in columns)),
        row("the simulation's share of a core", *(_percent(one.own_cores) for one in columns)),
        row("the simulation came late by", *(_ms(one.lagging_ms) for one in columns)),
        row("failures", *(_failures(one.errors) for one in columns)),
    ]


def _failures(errors: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in errors.items()) or "none"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _s(value: float | None) -> str:
    return "- (not in time)" if value is None else f"{value:.1f} s"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _mb(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} MB"
