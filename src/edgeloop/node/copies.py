"""What a node has of one repository's metadata: its newest files, unchecked, and what they say of themselves."""

import json
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

import msgspec

from edgeloop.contracts.codec import from_json
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.messages import Assignment, Held
from edgeloop.hub.together import kind_of
from edgeloop.transport.packed import version_of

_PATH = re.compile(
    r"(?P<place>images|director/[a-z0-9-]{1,63})/metadata/"
    r"(?P<file>(?:(?P<version>[1-9][0-9]{0,18})\.)?(?P<role>root|timestamp|snapshot|targets)\.json)"
)


class Copy:
    """One repository's timestamp, snapshot and targets, by file name.

    generation, assignment: of the director's, as its targets say; None of others, or if they do not say.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self._by_role = {_role(name): (name, data) for name, data in files.items()}
        self.held = Held(**{role: version_of(data) for role, (_, data) in self._by_role.items()})
        self.generation, self.assignment = _said(self._by_role.get("targets", ("", b""))[1])

    @property
    def is_whole(self) -> bool:
        """Whether there is one of each, as far as they say what they are."""
        return min(self.held.timestamp, self.held.snapshot, self.held.targets) > 0

    def newer(self, held: Held, roots: list[bytes]) -> dict[str, bytes]:
        """What is not held, by file name. roots: all of this repository, from version 1 on."""
        found = {f"{number}.root.json": roots[number - 1] for number in range(held.root + 1, len(roots) + 1)}
        for role, (name, data) in self._by_role.items():
            if getattr(held, role) != getattr(self.held, role):
                found[name] = data
        return found

    def held_with(self, roots: list[bytes]) -> Held:
        """What is held here."""
        return msgspec.structs.replace(self.held, root=len(roots))


@dataclass
class Changes:
    """What was new in an answer."""

    places: set[str]
    kinds_with_new_roots: set[str]


def taken_in(
    metadata: Mapping[str, bytes], copies: MutableMapping[str, Copy], roots: MutableMapping[str, list[bytes]]
) -> Changes:
    """Take the files of an answer into copies, by place, and roots, by `kind_of` place; of roots only the next ones."""
    came: dict[str, dict[str, bytes]] = {}
    changes = Changes(set(), set())
    for path in sorted(metadata, key=_order):
        found = _PATH.fullmatch(path)
        if found is None:
            continue
        if found["role"] != "root":
            came.setdefault(found["place"], {})[found["file"]] = metadata[path]
            continue
        known = roots.setdefault(kind_of(found["place"]), [])
        if int(found["version"] or 0) == len(known) + 1:
            known.append(metadata[path])
            changes.kinds_with_new_roots.add(kind_of(found["place"]))
    for place, files in came.items():
        before = copies[place].files if place in copies else {}
        roles = {_role(name) for name in files}
        copies[place] = Copy({name: data for name, data in before.items() if _role(name) not in roles} | files)
        changes.places.add(place)
    return changes


def _order(path: str) -> tuple[int, str]:
    """Roots by their number."""
    found = _PATH.fullmatch(path)
    return (int(found["version"] or 0) if found else 0, path)


def _role(file: str) -> str:
    """What stands before ".json".

    >>> _role("3.targets.json")
    'targets'
    """
    return file.split(".")[-2]


def _said(targets: bytes) -> tuple[int | None, Assignment | None]:
    try:
        signed = json.loads(targets)["signed"]
        generation = signed.get("generation")
        entry = signed["targets"].get("assignment")
        text = "" if entry is None else entry["custom"]["assignment"]
        found = from_json(str(text).encode(), Assignment, what="an assignment") if text else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, EdgeloopError):
        return None, None
    return generation if isinstance(generation, int) else None, found
