"""Rollouts: start, watch, stop."""

import time
from typing import Annotated

import typer

from edgeloop.cli.say import emit_json
from edgeloop.cli.show import OPERATOR_DEFAULT, AsJson, Operator, console, show_table
from edgeloop.contracts.api import Gate, RolloutRequest, RolloutView
from edgeloop.contracts.errors import Refused
from edgeloop.contracts.messages import WatchBounds
from edgeloop.contracts.states import RolloutState
from edgeloop.transport.cloud_api import CloudApi, read_operator

app = typer.Typer(help="Bringing bundles to devices.", no_args_is_help=True)

_POLL_S = 0.3


@app.command()
def start(
    bundle: Annotated[str, typer.Argument(help="NAME@VERSION.")],
    group: Annotated[str, typer.Option(help="'all' or LABEL=VALUE.")] = "all",
    waves: Annotated[str, typer.Option(help="Cumulative counts or shares, the last 100%.")] = "1,100%",
    first: Annotated[list[str] | None, typer.Option(help="Device to take before others; repeat for more.")] = None,
    max_failed: Annotated[int, typer.Option(min=0, help="Devices that may fail before it stops.")] = 0,
    max_disagreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of readings on watch that may differ from the old version.")
    ] = 0.1,
    watch_readings: Annotated[int, typer.Option(min=0, help="Readings on watch before a device confirms.")] = 20,
    watch_deadline_s: Annotated[
        float, typer.Option(min=0.1, help="With fewer readings by then, liveness alone confirms.")
    ] = 600.0,
    wave_deadline_s: Annotated[
        float, typer.Option(min=0.1, help="A wave that takes longer ends the rollout.")
    ] = 3600.0,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end; exit code 4 if it aborts.")] = False,
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Bring a bundle to a group of devices, wave by wave, behind a gate."""
    bounds = WatchBounds(min_readings=watch_readings, max_disagreement=max_disagreement, deadline_s=watch_deadline_s)
    gate = Gate(max_failed=max_failed, wave_deadline_s=wave_deadline_s, watch=bounds)
    request = RolloutRequest(
        bundle=bundle, group=group, waves=tuple(waves.split(",")), first=tuple(first or ()), gate=gate
    )
    with CloudApi(read_operator(operator)) as api:
        view = api.start_rollout(request)
        if wait:
            with console.status(f"rollout {view.rollout_id} of {bundle}"):
                while view.state is RolloutState.RUNNING:
                    time.sleep(_POLL_S)
                    view = api.rollout(view.rollout_id)
    _show(view, as_json=as_json)
    if wait and view.state is RolloutState.ABORTED:
        raise Refused(f"the rollout was aborted: {view.reason}")


@app.command("list")
def list_rollouts(operator: Operator = OPERATOR_DEFAULT, as_json: AsJson = False) -> None:
    """All rollouts."""
    with CloudApi(read_operator(operator)) as api:
        views = api.rollouts()
    if as_json:
        emit_json(views)
        return
    rows = [(v.rollout_id, v.bundle, v.group, f"{v.wave} of {len(v.waves)}", v.state, v.reason or "-") for v in views]
    show_table("rollouts", ("id", "bundle", "group", "wave", "state", "reason"), rows)


@app.command()
def show(
    rollout_id: Annotated[str, typer.Argument(help="The rollout's id.")],
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """One rollout, device by device."""
    with CloudApi(read_operator(operator)) as api:
        _show(api.rollout(rollout_id), as_json=as_json)


@app.command()
def abort(
    rollout_id: Annotated[str, typer.Argument(help="The rollout's id.")],
    reason: Annotated[str, typer.Option(help="Why.")] = "stopped by hand",
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Stop a rollout; devices that have not confirmed go back to what they had."""
    with CloudApi(read_operator(operator)) as api:
        _show(api.abort_rollout(rollout_id, reason), as_json=as_json)


def _show(view: RolloutView, *, as_json: bool) -> None:
    if as_json:
        emit_json(view)
        return
    rows = [(d.device_id, str(d.wave), d.state or "waits", d.reason or "-") for d in view.devices]
    title = f"rollout {view.rollout_id}: {view.bundle} to {view.group}, {view.state}"
    show_table(title, ("device", "wave", "state", "reason"), rows, note=view.reason)
