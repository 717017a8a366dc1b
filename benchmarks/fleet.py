"""Print what one cloud carries and write it to build/bench-fleet.json, row by row.

    python -m benchmarks.fleet [--only NAME]... [--devices N] [--seconds S]

Real processes on one machine, over loopback: `edgeloop cloud serve`, and the simulated fleet in processes of its own.
Run it on an otherwise idle machine with two cores or more: the simulation needs one for itself, and says how late it
came. A row: `work`, `runs`, `result`, `target`, `met` (null: not run, or no bound is set), `control_failed` (null: none
there), `note`. Exit code 0 when every work that could be run was, whether figures are met or not; 1 when one
failed.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # PostgreSQL is started as the tests do

from benchmarks.command import BUILD, exit_with
from edgeloop.simulate import run
from edgeloop.simulate.plan import Plan
from edgeloop.simulate.report import Figures, figures
from edgeloop.simulate.run import fleet_at, own_place, roll_out
from postgres import PostgresServer

SIZE_BYTES = 250_000
_GROWTH = (100, 1_000, 10_000)
_DEVICES_A_NODE = 100
_INGEST = Plan(devices=200, readings_per_s=200.0, send_every_s=2.0, beat_s=10.0, checked=0.0)
_MET = {True: "yes", False: "[bold red]NO[/]", None: "-"}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. result and target are in the unit that `work` names."""

    work: str
    runs: int = 1
    result: float | None = None
    target: str = ""
    met: bool | None = None
    control_failed: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class Asked:
    """devices: the largest fleet. seconds: how long each steady stretch is looked at."""

    devices: int
    seconds: float


def steady(asked: Asked) -> Iterator[Row]:
    """Growth: a beat a minute each, a reading a second batched by the minute."""
    for devices in [count for count in _GROWTH if count < asked.devices] + [asked.devices]:
        plan = Plan(devices=devices, checked=0.0)
        with tempfile.TemporaryDirectory(prefix="edgeloop-bench-") as name:
            folder = Path(name)
            with own_place(plan, folder, size_bytes=SIZE_BYTES) as (place, _), fleet_at(place, plan, folder) as fleet:
                enrolled_per_s = fleet.enrol()
                fleet.run()
                # They begin spread over one beat, and send spread over the next. A sync that is held for a beat counts
                # from when it was asked: what ends while we look was not to begin while they still connected.
                fleet.watch(3 * plan.beat_s + 5)
                found = figures(fleet.watch(asked.seconds), plan)
        yield from _steady_rows(devices, found, is_judged=devices == 10_000)
        yield Row(work=f"enrol {devices:,}: devices a second", result=_rounded(enrolled_per_s))


def _steady_rows(devices: int, found: Figures, *, is_judged: bool) -> Iterator[Row]:
    late = f"the simulation took {found.own_cores:.2f} of a core and came late by {found.lagging_ms:.0f} ms at worst"
    cores, p99_ms = found.server_cores, found.sync_p99_ms
    yield Row(
        work=f"steady {devices:,}: cloud's share of a core",
        result=_rounded(cores),
        target="<= 0.60" if is_judged else "",
        met=cores is not None and cores <= 0.6 if is_judged else None,
        note=f"{found.requests_per_s:,.0f} requests and {found.readings_acknowledged_per_s:,.0f} readings a second; "
        f"failures: {found.errors or 'none'}",
    )
    yield Row(
        work=f"steady {devices:,}: p99 of sync, ms",
        result=_rounded(p99_ms),
        target="<= 50" if is_judged else "",
        met=p99_ms is not None and p99_ms <= 50 if is_judged else None,
        note=late,
    )
    yield Row(work=f"steady {devices:,}: cloud's memory, MB", result=_rounded(found.server_peak_mb))


def rollout(asked: Asked) -> Iterator[Row]:
    """250 KB to all devices, through one node for each hundred; control: without nodes."""
    nodes = max(1, asked.devices // _DEVICES_A_NODE)
    plan = Plan(devices=asked.devices, nodes=nodes, readings_per_s=0.0, checked=0.01)
    with tempfile.TemporaryDirectory(prefix="edgeloop-bench-") as name:
        folder = Path(name)
        with own_place(plan, folder, size_bytes=SIZE_BYTES) as (place, _), fleet_at(place, plan, folder) as fleet:
            fleet.enrol()
            fleet.run()
            fleet.watch(plan.beat_s + 5)
            window, spread = roll_out(fleet, place, folder, within_s=300.0)
            fleet.watch(2.0)
            out_bytes, metadata_bytes = fleet.carried_bundle_bytes, fleet.carried_metadata_bytes
    found = figures(window, plan)
    yield Row(
        work=f"rollout to {asked.devices:,} through {nodes} nodes: s to 95 %",
        result=_rounded(spread.to_95_s),
        target="<= 120",
        met=spread.to_95_s is not None and spread.to_95_s <= 120,
        note=f"half after {_told(spread.to_half_s)}, all after {_told(spread.to_all_s)}, {spread.reached:,} reached; "
        f"cloud {found.server_cores or 0:.2f} and simulation with nodes {found.own_cores:.2f} cores",
    )
    bound_bytes = 1.2 * nodes * spread.size_bytes
    yield Row(
        work=f"rollout to {asked.devices:,} through {nodes} nodes: bundle's MB out of the cloud",
        result=_rounded(out_bytes / 1e6),
        target=f"<= {bound_bytes / 1e6:.1f}",
        met=0 < out_bytes <= bound_bytes,
        control_failed=_out_without_nodes() > 1.2 * spread.size_bytes,
        note=f"and {metadata_bytes / 1e6:.1f} MB of signed metadata, of which most is each device's own; the control "
        f"is {_DEVICES_A_NODE} devices without their node",
    )


def _out_without_nodes() -> int:
    """A bundle's bytes out of the cloud to one node's devices, when there is no node."""
    plan = Plan(devices=_DEVICES_A_NODE, readings_per_s=0.0, checked=0.0, beat_s=5.0)
    with tempfile.TemporaryDirectory(prefix="edgeloop-bench-") as name:
        folder = Path(name)
        with own_place(plan, folder, size_bytes=SIZE_BYTES) as (place, _), fleet_at(place, plan, folder) as fleet:
            fleet.enrol()
            fleet.run()
            fleet.watch(plan.beat_s)
            window, _ = roll_out(fleet, place, folder, within_s=60.0)
    return window.tally.bundle_bytes


def ingest(asked: Asked) -> Iterator[Row]:
    """As many readings as go in, each acknowledged after its commit."""
    found = _ingested(asked, ())
    yield Row(
        work="ingest: readings a second committed",
        result=_rounded(found.readings_acknowledged_per_s),
        target=">= 20000",
        met=found.readings_acknowledged_per_s >= 20_000,
        note=_ingest_note(found),
    )


def _ingested(asked: Asked, options: tuple[str, ...], *, replicas: int = 1) -> Figures:
    with tempfile.TemporaryDirectory(prefix="edgeloop-bench-") as name:
        folder = Path(name)
        with own_place(_INGEST, folder, size_bytes=SIZE_BYTES, options=options) as (place, cloud):
            others = [cloud.replica() for _ in range(replicas - 1)]
            try:
                for other in others:
                    other.start()
                everywhere = msgspec.structs.replace(place, more_urls=tuple(other.url for other in others))
                with fleet_at(everywhere, _INGEST, folder) as fleet:
                    fleet.enrol()
                    fleet.run()
                    fleet.watch(_INGEST.beat_s + 5)  # they begin spread over a beat
                    return figures(fleet.watch(asked.seconds), _INGEST)
            finally:
                for other in others:
                    other.end()


def _ingest_note(found: Figures) -> str:
    return (
        f"{_INGEST.devices} devices with {_INGEST.readings_per_s:.0f} a second each; cloud "
        f"{found.server_cores or 0:.2f} and simulation {found.own_cores:.2f} cores; failures: {found.errors or 'none'}"
    )


def reconnect(asked: Asked) -> Iterator[Row]:
    """The cloud is killed and started anew; all devices ask at once."""
    for devices in (asked.devices // 10, asked.devices // 2):
        plan = Plan(devices=devices, readings_per_s=0.0, checked=0.0)
        with tempfile.TemporaryDirectory(prefix="edgeloop-bench-") as name:
            folder = Path(name)
            with (
                own_place(plan, folder, size_bytes=SIZE_BYTES) as (place, cloud),
                fleet_at(place, plan, folder) as fleet,
            ):
                idle_bytes = cloud.watched().memory_bytes()
                fleet.enrol()
                fleet.run()
                fleet.watch(plan.beat_s + 5)
                came = run.reconnect(fleet, cloud, idle_bytes=idle_bytes, within_s=90.0)
        yield Row(
            work=f"reconnect {devices:,} at once: s until all are answered",
            result=_rounded(came.last_s),
            target="<= 30",
            met=came.last_s is not None and came.last_s <= 30,
            note=f"{came.answered:,} answered; from when the cloud that was killed is there again",
        )
        more_mb = came.more_bytes / 1024**2
        yield Row(
            work=f"reconnect {devices:,} at once: MB more in the cloud",
            result=_rounded(more_mb),
            target="<= 200",
            met=more_mb <= 200,
            note=f"at most, all the time since it started, beyond the {idle_bytes / 1024**2:.0f} MB of a cloud that "
            "has just started; each device has two connections by then",
        )


def replicas(asked: Asked) -> Iterator[Row]:
    """Ingest through two replicas on a PostgreSQL of the bench's own, beside one; an empty database for each."""
    work = "two replicas on PostgreSQL: ingest over that of one"
    try:
        server = PostgresServer(syncs=True)
        server.start()
    except (ImportError, pytest.skip.Exception) as error:
        yield Row(work=work, runs=0, target=">= 1.6", note=f"not run: {error}")
        return
    try:
        one = _ingested(asked, ("--database", server.new_database()))
        two = _ingested(asked, ("--database", server.new_database()), replicas=2)
    finally:
        server.stop()
    ratio = two.readings_acknowledged_per_s / one.readings_acknowledged_per_s
    yield Row(
        work=work,
        result=_rounded(ratio),
        target=">= 1.6",
        met=ratio >= 1.6,
        note=f"{one.readings_acknowledged_per_s:,.0f} and {two.readings_acknowledged_per_s:,.0f} readings a second",
    )


WORKS: dict[str, Callable[[Asked], Iterator[Row]]] = {
    work.__name__: work for work in (steady, rollout, ingest, reconnect, replicas)
}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _told(value_s: float | None) -> str:
    return "no time" if value_s is None else f"{value_s:.1f} s"


class _Ledger:
    """Rows on disk by work; those of works that are not run this time stay."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, list[Row]] = {}
        if path.is_file():
            self.rows = msgspec.json.decode(path.read_bytes(), type=dict[str, list[Row]])

    def put(self, work: str, rows: list[Row]) -> None:
        """Keep a work's rows, in place of those that it had."""
        self.rows[work] = rows
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(self.rows), indent=1) + b"\n")
        partial.replace(self._path)


def _run(work: str, asked: Asked, ledger: _Ledger, told: Console) -> bool:
    """Whether it could be run to its end."""
    told.print(f"{work}: {(WORKS[work].__doc__ or '').strip()}", highlight=False)
    rows: list[Row] = []
    try:
        for row in WORKS[work](asked):
            rows.append(row)
            ledger.put(work, rows)
            told.print(f"  {row.work}: {row.result} {row.target}", highlight=False)
    except Exception as error:  # noqa: BLE001 - the outer guard: a work that fails is a row, the others go on
        ledger.put(work, [*rows, Row(work=work, met=False, note=f"failed: {type(error).__name__}: {error}")])
        told.print(f"{work}: failed: {error}", highlight=False)
        return False
    return True


def _table(ledger: _Ledger) -> Table:
    made = Table(title="fleet figures", title_justify="left", header_style="dim", pad_edge=False)
    for column in ("work", "result", "target", "met", "control failed", "note"):
        made.add_column(column)
    for work in WORKS:
        for row in ledger.rows.get(work, []):
            result = "" if row.result is None else f"{row.result:,.0f}" if row.result >= 1000 else f"{row.result:.4g}"
            control = "" if row.control_failed is None else _MET[row.control_failed]
            made.add_row(row.work, result, row.target, _MET[row.met], control, row.note)
    return made


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.fleet", description="What one cloud carries.")
    parser.add_argument("--only", action="append", choices=list(WORKS), help="one work; may be given several times")
    parser.add_argument("--devices", type=int, default=10_000, help="the largest fleet")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long each steady stretch is looked at")
    given = parser.parse_args(arguments)
    asked = Asked(given.devices, given.seconds)
    ledger, told = _Ledger(BUILD / "bench-fleet.json"), Console(stderr=True, soft_wrap=True)
    sound = [_run(work, asked, ledger, told) for work in WORKS if not given.only or work in given.only]
    width = None if sys.stdout.isatty() else max(160, shutil.get_terminal_size().columns)
    Console(width=width).print(_table(ledger))
    return 0 if all(sound) else 1


if __name__ == "__main__":
    exit_with(main)
