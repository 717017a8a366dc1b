"""The command line: wires the nouns together, turns errors into a line and an exit code.

Exit codes: 0 done; 1 a bug of ours; 2 wrong input or usage; 3 not found; 4 refused; 5 not available now;
6 corrupt; 130 ended by Ctrl-C; 141 whoever read standard output left before its end.
"""

from typing import Annotated

import typer

from edgeloop import __version__
from edgeloop.cli.ending import heed_closed_pipes, run_to_end
from edgeloop.cli.lazy import LazyGroup
from edgeloop.cli.logs import set_up_logging


class _Nouns(LazyGroup):
    places = {
        "train": "edgeloop.cli.model:train",
        "transfer": "edgeloop.cli.transfer:transfer",
        "quantize": "edgeloop.cli.quantize:quantize",
        "prune": "edgeloop.cli.prune:prune",
        "distil": "edgeloop.cli.distil:distil",
        "convert": "edgeloop.cli.convert:convert",
        "check": "edgeloop.cli.check:check",
        "compress": "edgeloop.cli.search:compress",
        "compare": "edgeloop.cli.search:compare",
        "repeat": "edgeloop.cli.search:repeat",
        "pack": "edgeloop.cli.model:pack",
        "inspect": "edgeloop.cli.model:inspect",
        "predict": "edgeloop.cli.predict:predict",
        "watch": "edgeloop.cli.predict:watch",
        "bench": "edgeloop.cli.predict:bench",
        "enrol": "edgeloop.cli.predict:enrol",
        "serve": "edgeloop.cli.serve:serve",
        "doctor": "edgeloop.cli.doctor:doctor",
        "demo": "edgeloop.cli.demo.command:demo",
        "cloud": "edgeloop.cli.cloud:app",
        "node": "edgeloop.cli.node:app",
        "device": "edgeloop.cli.device:app",
        "worker": "edgeloop.cli.worker:app",
        "fleet": "edgeloop.cli.fleet:app",
        "access": "edgeloop.cli.access:app",
        "tls": "edgeloop.cli.tls:app",
        "bundle": "edgeloop.cli.bundle:app",
        "keys": "edgeloop.cli.keys:app",
        "rollout": "edgeloop.cli.rollout:app",
        "sample": "edgeloop.cli.sample:app",
        "sample-key": "edgeloop.cli.sample_key:app",
        "job": "edgeloop.cli.job:app",
        "data": "edgeloop.cli.data:app",
        "profile": "edgeloop.cli.profile:app",
    }


app = typer.Typer(
    name="edgeloop",
    cls=_Nouns,
    help="From a trained model to a fleet that improves itself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """From a trained model to a fleet that improves itself."""
    if version:
        typer.echo(f"edgeloop {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; the process ends with its exit code."""
    heed_closed_pipes()
    set_up_logging()
    run_to_end(app)
