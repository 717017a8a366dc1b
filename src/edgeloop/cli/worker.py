"""The toolchain worker: does the cloud's jobs."""

from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.node import default_id
from edgeloop.cli.say import ready
from edgeloop.cli.show import OPERATOR_DEFAULT, AsJson, Operator

app = typer.Typer(help="Toolchain workers.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Toolchain workers."""


@app.command()
def run(
    operator: Operator = OPERATOR_DEFAULT,
    name: Annotated[str, typer.Option(help="The worker's name.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="A folder of data that jobs may name; else only what edgeloop brings along.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Do jobs until Ctrl-C."""
    from edgeloop.toolchain.app import run_worker
    from edgeloop.transport.cloud_api import read_operator

    chosen = name or default_id("worker")
    where = read_operator(operator)

    def on_ready() -> None:
        ready("worker", as_json=as_json, name=chosen, cloud=where.url)

    run_worker(where, name=chosen, on_ready=on_ready, data=data)
