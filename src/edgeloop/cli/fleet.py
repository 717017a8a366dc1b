"""The fleet: who is there, who may join, whose input has drifted."""

import time
from typing import Annotated

import typer

from edgeloop.cli.say import emit_json
from edgeloop.cli.show import OPERATOR_DEFAULT, AsJson, Operator, console, percent, show_table
from edgeloop.contracts.api import JoinTokenRequest
from edgeloop.contracts.errors import InvalidInput
from edgeloop.transport.cloud_api import CloudApi, read_operator

app = typer.Typer(help="Devices and nodes.", no_args_is_help=True)


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
                "never" if device.last_seen_s is None else f"{now_s - device.last_seen_s:.0f} s ago",
            )
        )
    show_table("fleet", ("id", "kind", "via", "labels", "runs", "engine", "last update", "readings", "seen"), rows)


@app.command()
def token(
    uses: Annotated[int, typer.Option(min=1, help="How many devices it admits.")] = 1,
    valid_h: Annotated[float, typer.Option(min=0.01, help="For how many hours.")] = 24.0,
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE for those devices; repeat for more.")] = None,
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
        made = api.make_join_token(JoinTokenRequest(uses=uses, valid_s=valid_h * 3600, labels=labels))
    if as_json:
        emit_json(made)
        return
    typer.echo(made.token)


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
