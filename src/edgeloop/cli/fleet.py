"""The fleet: who is there, who may join, whose input has drifted."""

import time
from typing import Annotated

import typer

from edgeloop.cli.access import when
from edgeloop.cli.health import words
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import OPERATOR_DEFAULT, AsJson, Operator, console, percent, show_table
from edgeloop.cli.simulate import simulate
from edgeloop.contracts.api import DeviceView, JoinTokenRequest
from edgeloop.contracts.errors import InvalidInput
from edgeloop.transport.cloud_api import CloudApi, read_operator

app = typer.Typer(help="Devices and nodes.", no_args_is_help=True)
app.command()(simulate)


@app.command("list")
def list_devices(operator: Operator = OPERATOR_DEFAULT, as_json: AsJson = False) -> None:
    """All devices and nodes, and what they run."""
    with CloudApi(read_operator(operator)) as api:
        devices = api.devices()
    if as_json:
        emit_json(devices)
        return
    now_s = time.time()
    rows = []
    for device in devices:
        report = device.report
        update = report.update if report else None
        rows.append(
            (
                device.device_id,
                device.kind,
                device.via or "-",
                " ".join(f"{key}={value}" for key, value in sorted(device.labels.items())) or "-",
                (report.active if report else None) or "-",
                (report.engine if report else None) or "-",
                f"{update.state}" if update else "-",
                str(report.health.readings) if report else "-",
                (words(report.health) if report else device.unreadable) or "-",
                _standing(device, now_s),
            )
        )
    show_table(
        "fleet", ("id", "kind", "via", "labels", "runs", "engine", "last update", "readings", "health", "seen"), rows
    )


@app.command()
def token(
    uses: Annotated[int, typer.Option(min=1, help="How many devices it admits.")] = 1,
    valid_h: Annotated[float, typer.Option(min=0.01, help="For how many hours.")] = 24.0,
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for those devices; repeat for more.")] = None,
    note: Annotated[str, typer.Option(help="What it is for, shown by 'fleet tokens'.")] = "",
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Make a join token; it is shown this once."""
    labels = {}
    for text in label or []:
        key, sign, value = text.partition("=")
        if not (key and sign and value):
            raise InvalidInput(f"label {text!r} is not NAME=VALUE")
        labels[key] = value
    with CloudApi(read_operator(operator)) as api:
        made = api.make_join_token(JoinTokenRequest(uses=uses, valid_s=valid_h * 3600, labels=labels, note=note))
    if as_json:
        emit_json(made)
        return
    typer.echo(made.token)


@app.command()
def tokens(operator: Operator = OPERATOR_DEFAULT, as_json: AsJson = False) -> None:
    """The join tokens, without their secrets, and whom they admitted."""
    with CloudApi(read_operator(operator)) as api:
        views = api.join_tokens()
    if as_json:
        emit_json(views)
        return
    rows = [
        (
            view.token_id,
            view.note or "-",
            " ".join(f"{key}={value}" for key, value in sorted(view.labels.items())) or "-",
            f"{view.uses_left} of {view.uses}",
            view.made_by or "-",
            when(view.expires_at_s),
            "revoked" if view.revoked_at_s is not None else "expired" if view.expires_at_s < time.time() else "good",
            str(len(view.admitted)),
        )
        for view in views
    ]
    show_table("join tokens", ("id", "note", "labels", "left", "made by", "expires (UTC)", "state", "admitted"), rows)


@app.command("token-revoke")
def revoke_token(
    token_id: Annotated[str, typer.Argument(help="The id that 'fleet tokens' shows.")],
    devices: Annotated[bool, typer.Option("--devices", help="Revoke the devices that it admitted, too.")] = False,
    operator: Operator = OPERATOR_DEFAULT,
) -> None:
    """Let nobody else in with a join token; whom it admitted stays, unless told otherwise."""
    with CloudApi(read_operator(operator)) as api:
        view = api.revoke_join_token(token_id)
        console.print(f"join token {view.token_id} admits nobody any more", highlight=False)
        for device_id in view.admitted if devices else ():
            api.revoke_device(device_id)
            console.print(f"{device_id} is revoked", highlight=False)


@app.command()
def revoke(
    device_ids: Annotated[list[str], typer.Argument(help="Devices or nodes.")],
    operator: Operator = OPERATOR_DEFAULT,
) -> None:
    """Take nothing from a device from its next request on. It goes on by itself with the model that it has."""
    with CloudApi(read_operator(operator)) as api:
        for device_id in device_ids:
            api.revoke_device(device_id)
            console.print(f"{device_id} is revoked; 'edgeloop fleet allow' lets it join anew", highlight=False)


@app.command()
def allow(
    device_ids: Annotated[list[str], typer.Argument(help="Revoked devices or nodes.")],
    operator: Operator = OPERATOR_DEFAULT,
) -> None:
    """Let a revoked device enrol again, with a new join token and whatever key it has then."""
    with CloudApi(read_operator(operator)) as api:
        for device_id in device_ids:
            api.allow_device(device_id)
            console.print(f"{device_id} may join again with a join token", highlight=False)


@app.command()
def drift(
    bundle: Annotated[str, typer.Argument(help="NAME@VERSION.")],
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Whose input no longer looks like the data that a bundle was made with."""
    with CloudApi(read_operator(operator)) as api:
        rows = api.drift(bundle)
    if as_json:
        emit_json(rows)
        return
    show_table(
        f"input under {bundle}",
        ("device", "readings", "mean novelty", "mean energy", "mean margin", "labelled", "right", "drifted", "why"),
        [
            (
                row.device_id,
                str(row.readings),
                "-" if row.novelty_mean is None else f"{row.novelty_mean:+.2f}",
                "-" if row.energy_z_mean is None else f"{row.energy_z_mean:+.2f}",
                f"{row.margin_mean:.2f}",
                str(row.labelled),
                percent(row.labelled_accuracy),
                "[red]yes[/]" if row.drifted else "no",
                row.why,
            )
            for row in rows
        ],
    )
    console.print("novelty and energy in standard deviations of clean data", style="dim")


def _standing(device: DeviceView, now_s: float) -> str:
    if device.revoked_at_s is not None:
        return "revoked, may rejoin" if device.may_rejoin else "revoked"
    return "never" if device.last_seen_s is None else f"{now_s - device.last_seen_s:.0f} s ago"
