"""Rollouts: start, watch, pause, resume, stop."""

import time
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer
from rich.live import Live

from edgeloop.cli.rollout_view import changes, counts, is_done, place, render, told
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import OPERATOR_DEFAULT, AsJson, Operator, console, show_table
from edgeloop.contracts.api import Gate, RolloutRequest, RolloutView
from edgeloop.contracts.errors import InvalidInput, Refused, Unavailable
from edgeloop.contracts.messages import WatchBounds
from edgeloop.contracts.states import RolloutState
from edgeloop.contracts.window import parse_window
from edgeloop.transport.cloud_api import CloudApi, read_operator

app = typer.Typer(help="Bringing bundles to devices.", no_args_is_help=True)

RolloutId = Annotated[str, typer.Argument(help="The rollout's id.")]

_POLL_S = 0.5


@app.command()
def start(
    bundle: Annotated[str, typer.Argument(help="NAME@VERSION.")],
    group: Annotated[
        str, typer.Option(help="'all' or LABEL=VALUE; or several with commas between, all of which must hold.")
    ] = "all",
    waves: Annotated[str, typer.Option(help="Cumulative counts or shares, the last 100%.")] = "1,100%",
    first: Annotated[list[str] | None, typer.Option(help="Device to take before others; repeat for more.")] = None,
    window: Annotated[
        str | None, typer.Option(help="Hours in which it is put to work: 01:00-05:00, or '01:00-05:00 utc'.")
    ] = None,
    max_failed: Annotated[
        str, typer.Option(help="Devices that may fail before it stops: a count, or a share of all such as 5%.")
    ] = "0",
    max_disagreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of readings on watch that may differ from the old version.")
    ] = 0.1,
    max_score_shift: Annotated[
        float, typer.Option(min=0, max=1, help="Share of top scores that may lie elsewhere than the old version's.")
    ] = 0.5,
    max_empty_rise: Annotated[
        float, typer.Option(min=0, max=1, help="How many more answers may be empty, as a share of readings.")
    ] = 0.2,
    max_error_rate: Annotated[
        float, typer.Option(min=0, max=1, help="Share of readings on watch that may fail.")
    ] = 0.02,
    max_latency_ratio: Annotated[
        float, typer.Option(min=0.01, help="Median latency over the old version's, judged above 5 ms.")
    ] = 3.0,
    watch_readings: Annotated[
        int, typer.Option(min=0, help="Readings on watch before a device confirms; 0 for no watch.")
    ] = 20,
    watch_deadline_s: Annotated[
        float, typer.Option(min=0.1, max=604_800, help="With fewer readings by then, what there is decides.")
    ] = 600.0,
    wave_deadline_s: Annotated[
        float, typer.Option(min=0.1, help="A device that takes longer is left behind.")
    ] = 3600.0,
    unreachable_after_s: Annotated[
        float,
        typer.Option(min=1, help="A device that is silent for so long is left behind, or failed if the version ran."),
    ] = 1800.0,
    max_accuracy_drop: Annotated[
        float, typer.Option(min=0, max=1, help="How many more labelled samples may be wrong, as a share.")
    ] = 0.05,
    min_labelled: Annotated[
        int, typer.Option(min=1, help="Labelled samples of each version before they are judged.")
    ] = 30,
    spare_drifted: Annotated[
        bool,
        typer.Option("--spare-drifted/--judge-drifted", help="Do not compare old and new where the input has drifted."),
    ] = True,
    wait: Annotated[bool, typer.Option("--wait", help="Follow it to its end; exit code 4 if it aborts.")] = False,
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Bring a bundle to a group of devices, wave by wave, behind a gate."""
    bounds = WatchBounds(
        min_readings=watch_readings,
        max_disagreement=max_disagreement,
        max_error_rate=max_error_rate,
        max_latency_ratio=max_latency_ratio,
        deadline_s=watch_deadline_s,
        max_score_shift=max_score_shift,
        max_empty_rise=max_empty_rise,
    )
    count, share = failures_allowed(max_failed)
    gate = Gate(
        max_failed=count,
        max_failed_share=share,
        wave_deadline_s=wave_deadline_s,
        unreachable_after_s=unreachable_after_s,
        max_accuracy_drop=max_accuracy_drop,
        min_labelled=min_labelled,
        spare_drifted=spare_drifted,
        watch=bounds,
    )
    request = RolloutRequest(
        bundle=bundle,
        group=group,
        waves=tuple(waves.split(",")),
        first=tuple(first or ()),
        gate=gate,
        window=None if window is None else parse_window(window),
    )
    with CloudApi(read_operator(operator)) as api:
        view = api.start_rollout(request)
        if wait:
            with console.status(f"rollout {view.rollout_id} of {bundle}"):
                while not view.state.is_final:
                    time.sleep(_POLL_S)
                    view = api.rollout(view.rollout_id)
    _show(view, as_json=as_json)
    if wait:
        _require_completed(view)


@app.command("list")
def list_rollouts(operator: Operator = OPERATOR_DEFAULT, as_json: AsJson = False) -> None:
    """All rollouts, oldest first: the order in which a device takes them."""
    with CloudApi(read_operator(operator)) as api:
        views = api.rollouts()
    if as_json:
        emit_json(views)
        return
    rows = [
        (
            v.rollout_id,
            v.bundle,
            v.group,
            f"{v.wave} of {len(v.waves)}",
            v.state,
            ", ".join(f"{count} {word.replace('_', ' ')}" for word, count in counts(v).items()),
            v.reason or _behind(v) or "-",
        )
        for v in views
    ]
    show_table("rollouts", ("id", "bundle", "group", "wave", "state", "devices", "reason"), rows)


@app.command()
def show(rollout_id: RolloutId, operator: Operator = OPERATOR_DEFAULT, as_json: AsJson = False) -> None:
    """One rollout, device by device."""
    with CloudApi(read_operator(operator)) as api:
        _show(api.rollout(rollout_id), as_json=as_json)


@app.command()
def watch(rollout_id: RolloutId, operator: Operator = OPERATOR_DEFAULT, as_json: AsJson = False) -> None:
    """Follow one rollout live to its end; exit code 4 if it aborts. With --json one line for each change."""
    with CloudApi(read_operator(operator)) as api:
        view = api.rollout(rollout_id)  # what is not there is told before anything is drawn
        view = _follow_json(api, view) if as_json else _follow(api, view)
    _require_completed(view)


@app.command()
def pause(rollout_id: RolloutId, operator: Operator = OPERATOR_DEFAULT, as_json: AsJson = False) -> None:
    """Begin nothing more; devices that have begun go on, and too many failures still end it."""
    with CloudApi(read_operator(operator)) as api:
        _show(api.pause_rollout(rollout_id), as_json=as_json)


@app.command()
def resume(rollout_id: RolloutId, operator: Operator = OPERATOR_DEFAULT, as_json: AsJson = False) -> None:
    """Go on with a paused rollout; its deadlines stood still meanwhile."""
    with CloudApi(read_operator(operator)) as api:
        _show(api.resume_rollout(rollout_id), as_json=as_json)


@app.command()
def abort(
    rollout_id: RolloutId,
    reason: Annotated[str, typer.Option(help="Why.")] = "stopped by hand",
    keep: Annotated[bool, typer.Option("--keep", help="Let devices that have begun go on.")] = False,
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Stop a rollout; devices that have not confirmed go back to what they had, unless told to --keep it."""
    with CloudApi(read_operator(operator)) as api:
        _show(api.abort_rollout(rollout_id, reason, keep=keep), as_json=as_json)


def failures_allowed(text: str) -> tuple[int, float]:
    """A count and a share, one of them 0. Raises InvalidInput unless it is like 3 or 5%.

    >>> failures_allowed("3"), failures_allowed("5%")
    ((3, 0.0), (0, 0.05))
    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    if not (number.isascii() and number.isdigit()) or (percent and int(number) > 100):
        raise InvalidInput(f"{text!r} is no number of devices; write a count such as 3 or a share such as 5%")
    return (0, int(number) / 100) if percent else (int(number), 0.0)


def _follow(api: CloudApi, view: RolloutView) -> RolloutView:
    last = view
    with Live(render(view), console=console, refresh_per_second=4) as live:
        for last in _views(api, view):
            live.update(render(last))
    return last


def _follow_json(api: CloudApi, view: RolloutView) -> RolloutView:
    before = None
    for now in _views(api, view):
        told_now = changes(before, now)
        if told_now is not None:
            emit_json(told_now)
        before = now
    return before or view


def _views(api: CloudApi, view: RolloutView) -> Iterator[RolloutView]:
    """The rollout as it stands, again and again to its end; a cloud that is away meanwhile is waited for."""
    yield view
    while not is_done(view):
        time.sleep(_POLL_S)
        try:
            view = api.rollout(view.rollout_id)
        except Unavailable as error:
            yield msgspec.structs.replace(view, reason=f"{error}; trying again")
            continue
        yield view


def _behind(view: RolloutView) -> str:
    ahead = list(dict.fromkeys(one.behind for one in view.devices if one.behind is not None))
    return f"{view.state}: behind {', '.join(ahead)}" if ahead and view.state is RolloutState.QUEUED else ""


def _require_completed(view: RolloutView) -> None:
    if view.state is RolloutState.ABORTED:
        raise Refused(f"the rollout was aborted: {view.reason}")


def _show(view: RolloutView, *, as_json: bool) -> None:
    if as_json:
        emit_json(view)
        return
    rows = [(d.device_id, str(d.wave), place(d, view), d.state or "-", told(d) or "-") for d in view.devices]
    title = f"rollout {view.rollout_id}: {view.bundle} to {view.group}, {view.state}"
    show_table(title, ("device", "wave", "came to", "said last", "why"), rows, note=view.reason)
