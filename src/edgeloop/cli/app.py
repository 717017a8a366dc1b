"""The command line: wires the nouns together, turns errors into a line and an exit code.

Exit codes: 0 done; 1 a bug of ours; 2 wrong input or usage; 3 not found; 4 refused; 5 not available now;
6 corrupt; 130 ended by Ctrl-C.
"""

import logging
import os
import sys
from typing import Annotated

import structlog
import typer
from rich.console import Console

from edgeloop import __version__
from edgeloop.cli import (
    bundle,
    check,
    cloud,
    convert,
    data,
    demo,
    device,
    distil,
    doctor,
    fleet,
    job,
    model,
    node,
    profile,
    prune,
    quantize,
    rollout,
    sample,
    search,
    transfer,
    worker,
)
from edgeloop.contracts.errors import EdgeloopError

app = typer.Typer(
    name="edgeloop",
    help="From a trained model to a fleet that improves itself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for name, noun in (
    ("cloud", cloud.app),
    ("node", node.app),
    ("device", device.app),
    ("worker", worker.app),
    ("fleet", fleet.app),
    ("bundle", bundle.app),
    ("rollout", rollout.app),
    ("sample", sample.app),
    ("job", job.app),
    ("data", data.app),
    ("profile", profile.app),
):
    app.add_typer(noun, name=name)
app.command()(model.train)
app.command()(transfer.transfer)
app.command()(quantize.quantize)
app.command()(prune.prune)
app.command()(distil.distil)
app.command()(convert.convert)
app.command()(check.check)
app.command()(search.compress)
app.command()(search.compare)
app.command()(search.repeat)
app.command()(model.pack)
app.command()(model.inspect)
app.command()(model.predict)
app.command()(doctor.doctor)
app.command()(demo.demo)


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
    _set_up_logging()
    try:
        app()
    except EdgeloopError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]{error.code}[/]: {_plain(str(error))}", highlight=False)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _set_up_logging() -> None:
    """Logs go to standard error, so that results can be piped; EDGELOOP_LOG sets the level."""
    level = getattr(logging, os.environ.get("EDGELOOP_LOG", "INFO").upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event")),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
