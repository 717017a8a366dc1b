"""What a job may read on the worker that does it: nothing but what the worker's keeper said.

A job is written by whoever may submit one, and is done by another machine: its paths are not that machine's to follow.
Data that come with edgeloop need no path; every other one must lie in the folder that the worker was given (--data),
links followed.
"""

from pathlib import Path
from typing import TypeVar

import msgspec

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.toolchain.data.digits import BUNDLED, KERAS
from edgeloop.toolchain.data.open import DIGITS

T = TypeVar("T", bound=msgspec.Struct)

_LONGEST = 1000


def read_recipe(recipe: dict[str, str | int | float | bool], kind: type[T], *, data: Path | None) -> T:
    """A job's recipe with its paths made the worker's own.

    data: the folder that jobs may read, None for none. Raises InvalidInput on a field of the wrong kind, Refused on a
    path outside.
    """
    try:
        told = msgspec.convert(recipe, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the job's recipe does not fit: {error}") from error
    changes = {}
    for field, words in (("data", (DIGITS,)), ("source", (BUNDLED, KERAS))):
        named = getattr(told, field)
        if named not in words:
            changes[field] = _within(named, data, field)
    return msgspec.structs.replace(told, **changes)


def _within(named: str, data: Path | None, field: str) -> str:
    if data is None:
        raise Refused(
            f"the job's {field} is {named!r}, a path on the worker, and this worker lends none; start it with "
            "--data FOLDER to let jobs read what lies there"
        )
    if len(named) > _LONGEST:
        raise InvalidInput(f"the job's {field} is a path of {len(named):,} letters; at most {_LONGEST:,} are taken")
    path, colon, column = named.rpartition(":") if ".csv:" in named else (named, "", "")
    try:
        found = (data / path).resolve()
        inside = found.is_relative_to(data.resolve())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"the job's {field} {named!r} is no path: {error}") from error
    if not inside:
        raise Refused(f"the job's {field} {named!r} lies outside the folder that this worker lends to jobs")
    return f"{found}{colon}{column}"
