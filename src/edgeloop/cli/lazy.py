"""A group whose commands' modules are imported when one of them is asked for: a device's agent never pays for the
toolchain's commands.

`--help` and whoever walks the tree ask for all, in the order that the table has.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

Command = Any
"""What Typer makes of a function or an app; it has no public name for both."""


class LazyGroup(TyperGroup):
    """To be subclassed with the table, and given to Typer as `cls`."""

    places: ClassVar[Mapping[str, str]]
    """Each command's name, and where it stands: "package.module:attribute", a function or a Typer app of its own."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands(self.places)


class _Commands(MutableMapping[str, Command]):
    """The commands by name; each is made once."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._made: dict[str, Command] = dict.fromkeys(places)
        self._places = places

    def __getitem__(self, name: str) -> Command:
        made = self._made[name]
        if made is None:
            made = self._made[name] = _make(name, self._places[name])
        return made

    def __setitem__(self, name: str, command: Command) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


def _make(name: str, place: str) -> Command:
    """Have Typer build it, inside an app that is there for nothing else."""
    module, _, attribute = place.partition(":")
    found = getattr(import_module(module), attribute)
    around = typer.Typer()
    if isinstance(found, typer.Typer):
        around.add_typer(found, name=name)
    else:
        around.command(name)(found)
    return typer.main.get_group(around).commands[name]
