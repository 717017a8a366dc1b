"""Options that a person gave: what would be ignored is refused."""

from collections.abc import Iterable

import typer
from click.core import ParameterSource

from edgeloop.contracts.errors import InvalidInput


def refuse_ignored(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Raise InvalidInput on the first of these parameters that stood in the command line. why: goes on after its name."""
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InvalidInput(f"--{name.replace('_', '-')} {why}; leave it out")
