"""Options that a person gave: what would be ignored is refused."""

from collections.abc import Iterable

import typer

from edgeloop.contracts.errors import InvalidInput


def refuse_ignored(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Raise InvalidInput on the first of these parameters that stands in the command line. why: follows its name."""
    for name in names:
        given = context.get_parameter_source(name)
        # By its name: Typer brings a click of its own in some versions, whose enum is another one.
        if given is not None and given.name == "COMMANDLINE":
            raise InvalidInput(f"--{name.replace('_', '-')} {why}; leave it out")
