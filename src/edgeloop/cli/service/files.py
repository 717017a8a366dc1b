"""A service's two files: its unit, and the variables that only it may read.

Rule: nothing is written over that says something else, unless told; each file is there in full or not at all.
"""

from dataclasses import dataclass
from pathlib import Path

from edgeloop.bundle.durable import fsync_folder, translated, write_durable
from edgeloop.cli.service.quoting import is_variable_name, variable
from edgeloop.cli.service.unit import MARK
from edgeloop.contracts.errors import NotFound, Refused

_ABOUT = "# Variables of the service {name}, one a line; nobody else may read them.\n"


@dataclass(frozen=True)
class Places:
    """Where a service's files are."""

    unit: Path
    environment: Path


def places(name: str, *, home: Path | None) -> Places:
    """Of the whole machine, or of a user's own. home: the user's folder for settings, None for the machine's."""
    unit, variables = f"{name}.service", f"{name}.env"
    if home is None:
        return Places(Path("/etc/systemd/system", unit), Path("/etc/edgeloop", variables))
    return Places(home / "systemd" / "user" / unit, home / "edgeloop" / variables)


def with_variables(present: str, given: dict[str, str], *, name: str) -> str:
    """The file of variables with these in it; other lines stay as they are.

    >>> print(with_variables("A=1\\nB=2\\n", {"B": "3"}, name="camera"), end="")
    A=1
    B="3"
    """
    kept = [line for line in present.splitlines() if _named(line) not in given]
    lines = [*kept, *(variable(one, value) for one, value in given.items())]
    return (("" if present else _ABOUT.format(name=name)) + "".join(f"{line}\n" for line in lines)) if lines else ""


def write_service(where: Places, unit: str, given: dict[str, str], *, name: str, force: bool) -> None:
    """Write both files. Raises Refused if another unit stands there, and not force;
    InvalidInput or Unavailable if they cannot be written."""
    there, variables = _read(where.unit), _read(where.environment)
    wanted = with_variables(variables or "", given, name=name)
    if not force:
        if there is not None and there != unit:
            whose = "another one of ours" if there.startswith(MARK) else "not written by edgeloop"
            raise Refused(
                f"{where.unit} is there already, and different ({whose}). Look at it, then write over it with --force, "
                "or give this service another name with --name."
            )
        if variables is not None and variables != wanted:
            raise Refused(f"{where.environment} has other values for {', '.join(given)}; --force changes these")
    if wanted and wanted != variables:
        write_durable(where.environment, wanted.encode(), mode=0o600)
    if there != unit:
        write_durable(where.unit, unit.encode())


def require_ours(where: Places, *, tier: str) -> None:
    """Raise NotFound if there is no such unit, Refused if it is not one that this tier's command wrote."""
    there = _read(where.unit)
    if there is None:
        raise NotFound(f"there is no service {where.unit}; 'systemctl list-units \"edgeloop*\"' shows those there are")
    if not there.startswith(f"{MARK}{tier} "):
        raise Refused(f"{where.unit} was not written by 'edgeloop {tier} install-service'; remove it by hand")


def remove_service(where: Places) -> list[Path]:
    """Take both files away; returns those that were there. Raises InvalidInput if one cannot be removed."""
    gone = []
    for path in (where.unit, where.environment):
        with translated(path, doing="write"):
            try:
                path.unlink()
            except FileNotFoundError:
                continue
            fsync_folder(path.parent)
        gone.append(path)
    return gone


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(f"cannot read what is at {path}: {error.strerror}. Run this as root, or move it away.") from error


def _named(line: str) -> str | None:
    name, equals, _ = line.partition("=")
    return name if equals and is_variable_name(name) else None
