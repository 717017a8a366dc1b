"""What a service's command is told: its options, checked by the command itself, with paths that hold from anywhere.

The command is called with them as for a run, but in a rehearsal, and ends where it would begin to work: what a service
is told is so whatever `run` takes, without a second list. An option that can be given as a variable goes to the file of
variables, which is nobody else's business, and not to the command line, which everybody sees.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from edgeloop.runtime.sources.names import scheme_of, shown

_GIVEN = ("COMMANDLINE", "ENVIRONMENT")


class Rehearsal:
    """What a command finds in its context when it is only asked whether its options are good."""


def is_rehearsal(context: typer.Context) -> bool:
    """Whether the command is to end, now that it has checked everything."""
    return isinstance(context.obj, Rehearsal)


@dataclass
class RunOptions:
    """Options for a unit. words: of its command line; variables: for its file; reads: the paths among both; port:
    where it listens, None if nowhere."""

    folder: Path
    words: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    reads: list[Path] = field(default_factory=list)
    sample_key: str | None = None
    port: int | None = None


def read_options(command: Any, words: Sequence[str], *, name: str) -> RunOptions:
    """Have `command` check these words, and make them hold in a service. name: what the command is called.

    Raises whatever the command does of its options.
    """
    with command.make_context(name, list(words), obj=Rehearsal()) as context:
        command.invoke(context)
    told = context.params
    options = RunOptions(Path(os.path.abspath(told["folder"])), sample_key=told["sample_key"], port=told.get("port"))  # noqa: PTH100 - links stay as they are
    options.words.append(f"--dir={options.folder}")
    for parameter in command.params:
        # By its name: Typer brings a click of its own in some versions, whose enum is another one.
        source = context.get_parameter_source(parameter.name)
        if source is not None and source.name in _GIVEN and parameter.name != "folder":
            _take(options, parameter, told[parameter.name])
    return options


def _take(options: RunOptions, parameter: Any, value: Any) -> None:
    if getattr(parameter, "is_flag", False):
        options.words.append((parameter.opts if value else parameter.secondary_opts)[0])
        return
    for one in value if parameter.multiple else (value,):
        text = getattr(one, "value", one)
        path = _path_in(parameter.name, str(text))
        if path is not None:
            options.reads.append(path)
        holds = str(text if path is None else path)
        if parameter.envvar and not _is_plain_source(parameter.name, holds):
            options.variables[parameter.envvar] = holds
        else:
            options.words.append(f"{parameter.opts[0]}={holds}")


def _path_in(name: str, text: str) -> Path | None:
    """The absolute path that this is, if it is one."""
    if name == "source":
        is_path = scheme_of(text) is None and not text.isdecimal()
    elif name == "sample_key":
        is_path = not text.startswith(("env:", "command:"))
    else:
        is_path = name in ("ca", "tls_cert", "tls_key")
    return Path(os.path.abspath(text)) if is_path else None  # noqa: PTH100 - links stay as they are


def _is_plain_source(name: str, text: str) -> bool:
    """Whether it is a source that everybody may see: no address with a password."""
    return name == "source" and shown(text) == text
