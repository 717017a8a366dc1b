"""The demo's command: options, the ten steps in order, the ending."""

import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from edgeloop.bundle.durable import write_durable
from edgeloop.cli.model import Data
from edgeloop.cli.show import console
from edgeloop.contracts.codec import to_pretty_json
from edgeloop.contracts.errors import EdgeloopError, Refused

if TYPE_CHECKING:
    from edgeloop.cli.demo.fleet import Fleet
    from edgeloop.cli.demo.report import Report


def demo(
    report: Annotated[Path | None, typer.Option(help="Where the figures go as JSON.")] = None,
    data: Data = "bundled",
    keep: Annotated[bool, typer.Option("--keep", help="Leave the fleet running, and say where.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the data split, training and sampling.")] = 0,
) -> None:
    """Run the whole loop: train, quantize, prove, sign, deliver, run, lose the cloud, learn, deliver again."""
    from edgeloop.cli.demo.fleet import Fleet
    from edgeloop.cli.demo.loop import Loop
    from edgeloop.cli.demo.report import show_report
    from edgeloop.cli.demo.steps import Steps

    if report is not None:
        write_durable(report, b"{}\n")
    started_s = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="edgeloop-demo-"))
    fleet = Fleet(folder / "logs")
    for kind in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, _as_interrupt)
    kept = False
    try:
        with Steps(console) as steps:
            outcome = Loop(folder, fleet, steps, data=data, seed=seed).run()
        outcome = outcome.with_costs(wall_s=time.monotonic() - started_s, peak_memory_mb=fleet.peak_memory_mb)
        show_report(outcome)
        if report is not None:
            write_durable(report, to_pretty_json(outcome))
            console.print(f"the same as JSON: {report}", highlight=False)
        _judge(outcome)
        kept = keep
        if keep:
            _say_where(folder, fleet)
    except EdgeloopError:
        fleet.stop()
        kept = True
        console.print(f"the demo did not come to its end; its logs are in {folder / 'logs'}", highlight=False)
        raise
    finally:
        if not kept:
            fleet.stop()
            shutil.rmtree(folder, ignore_errors=True)


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _judge(outcome: "Report") -> None:
    missed = [claim.claim for claim in outcome.claims if not claim.held]
    if missed:
        raise Refused(f"the demo ran, but did not show what it claims: {'; '.join(missed)}")


def _say_where(folder: Path, fleet: "Fleet") -> None:
    console.print(f"\nthe fleet is still up, in {folder}:", highlight=False)
    for name, pid in fleet.pids().items():
        console.print(f"  {name}: pid {pid}, log {folder / 'logs' / name}.log", highlight=False)
    # Lines to copy: never wrapped.
    operator = folder / "cloud" / "operator.json"
    console.print(f"look: edgeloop fleet list --operator {operator}", highlight=False, soft_wrap=True)
    pids = " ".join(str(pid) for pid in fleet.pids().values())
    console.print(f"end it: kill {pids}", highlight=False, soft_wrap=True)
