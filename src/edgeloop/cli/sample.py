"""Samples that came up: look, fetch, label."""

import getpass
from pathlib import Path
from typing import Annotated

import typer

from edgeloop.bundle.durable import write_durable
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import OPERATOR_DEFAULT, AsJson, Operator, console, show_table, size
from edgeloop.contracts.api import LabelRequest
from edgeloop.transport.cloud_api import CloudApi, read_operator

app = typer.Typer(help="Samples that devices sent up.", no_args_is_help=True)


@app.command("list")
def list_samples(
    device: Annotated[str | None, typer.Option(help="Of this device only.")] = None,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Only those that wait for a label.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first.")] = 50,
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Samples, newest first, with why each was sent."""
    with CloudApi(read_operator(operator)) as api:
        views = api.samples(device_id=device, labelled=False if unlabelled else None, limit=limit)
    if as_json:
        emit_json(views)
        return
    show_table(
        "samples",
        ("id", "source", "reason", "size", "predicted", "margin", "label"),
        [
            (
                v.sample_id,
                v.source,
                v.reason,
                size(v.size_bytes),
                v.predicted or "none",
                f"{v.margin:.2f}",
                v.label or "-",
            )
            for v in views
        ],
    )


@app.command()
def fetch(
    sample_id: Annotated[str, typer.Argument(help="The sample's id.")],
    out: Annotated[Path, typer.Option("--out", help="Where its bytes go.")],
    operator: Operator = OPERATOR_DEFAULT,
) -> None:
    """Write a sample's own bytes to a file."""
    with CloudApi(read_operator(operator)) as api:
        write_durable(out, api.sample_data(sample_id))
    console.print(str(out), highlight=False)


@app.command()
def label(
    sample_id: Annotated[str, typer.Argument(help="The sample's id.")],
    text: Annotated[str, typer.Argument(help="What it shows.")],
    by: Annotated[str, typer.Option(help="Who says so.")] = "",
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Say what a sample shows; saying it again corrects it."""
    with CloudApi(read_operator(operator)) as api:
        view = api.label(sample_id, LabelRequest(label=text, by=by or getpass.getuser()))
    if as_json:
        emit_json(view)
        return
    console.print(f"{view.sample_id}: predicted {view.predicted}, labelled {view.label}", highlight=False)
