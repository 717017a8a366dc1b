"""What a power cut left in the folder of a device that does not run.

Held against what the device told before the cut (`Told`), since it acted upon that: rows of the outbox that it
acknowledged, signed metadata that it took for true, an update that it took for switched or ended. What it had only
begun may be there or not, whole or torn, as long as nothing is built on it.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from edgeloop.bundle.archive import digest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.codec import from_json
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.states import UpdateState
from edgeloop.device.agent import open_outbox
from edgeloop.device.state import Installed, Update, Versions
from edgeloop.transport.floor import Mark
from edgeloop.transport.keep import Keep
from edgeloop.transport.membership import Membership, read_membership
from torture.marks import ROLES

_SWITCHED = (UpdateState.ACTIVE, UpdateState.CONFIRMED)
"""States of an update whose version runs."""


class Told(msgspec.Struct, kw_only=True):
    """What a device told so far, over all its runs.

    kept: the last row of the outbox. believed: versions of root, timestamp, snapshot and targets by repository; begun:
    files of metadata, as repository and role, that were begun to be written since. generation, state: of the update.
    """

    kept: int = 0
    believed: dict[str, list[int]] = {}
    begun: set[tuple[str, str]] = set()
    generation: int = 0
    state: UpdateState | None = None

    def hear(self, lines: list[str]) -> None:
        """Take in lines of `marks`."""
        for line in lines:
            match line.split():
                case ["kept", row]:
                    self.kept = max(self.kept, int(row))
                case ["begun", repository, role]:
                    self.begun.add((repository, role))
                case ["believed", repository, *versions]:
                    self.believed[repository] = [int(one) for one in versions]
                    self.begun = {one for one in self.begun if one[0] != repository}
                case ["at", generation, state]:
                    self.generation, self.state = int(generation), UpdateState(state)


class Wrong(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a folder. step: in which it was cut. lost: acknowledged rows that are gone."""

    step: str
    corrupt: tuple[str, ...]
    none_whole: bool
    lost: int

    def is_any(self) -> bool:
        """Whether anything is."""
        return bool(self.corrupt or self.none_whole or self.lost)


def look(device: Path, *, step: str, told: Told) -> Wrong:
    """Look through a device's folder."""
    corrupt = [
        f"file {path.name[:12]} holds something else, {path.stat().st_size} bytes"
        for path in (device / "bundles" / "files").glob("*")
        if path.suffix != ".part" and digest(path.read_bytes()) != path.name
    ]
    is_whole = False
    try:
        keep = Keep(device / "device.db")
        versions = Versions(keep)
        active, older, update = versions.active, versions.older, versions.update
        keep.close()
        broken = [(one, _why_not_whole(Shelf(device / "bundles"), one)) for one in (active, *older) if one is not None]
        corrupt += [why for _, why in broken if why]
        is_whole = active is not None and (active, "") in broken
        corrupt += _torn(active, update, told)
    except EdgeloopError as error:
        corrupt.append(str(error))
    corrupt += _distrusted(device, told)
    return Wrong(step=step, none_whole=not is_whole, lost=_lost(device, told.kept, corrupt), corrupt=tuple(corrupt))


def is_over(device: Path, bundle: str) -> bool:
    """Whether the update to this version has ended, by what is on the disk: its end may be there and untold."""
    keep = Keep(device / "device.db")
    update = Versions(keep).update
    keep.close()
    return update is not None and update.state.is_final and update.assignment.bundle == bundle


def _why_not_whole(shelf: Shelf, installed: Installed) -> str:
    """Why a version cannot be run, empty if it can: its manifest, variant and golden samples are looked at by hash."""
    try:
        bundle = shelf.open(installed.ref)
        golden = bundle.manifest.golden
        for sha256 in (installed.variant, golden.inputs, golden.outputs):
            bundle.read(sha256)
    except EdgeloopError as error:
        return f"{installed.bundle}: {error}"
    same = digest(bundle.manifest_bytes) == installed.manifest_sha256
    return "" if same else f"{installed.bundle}: another manifest than was accepted"


def _torn(active: Installed | None, update: Update | None, told: Told) -> Iterator[str]:
    """Where what runs and what the update says of it do not fit together, or fall behind what was told."""
    if update is None:
        if told.state is not None:
            yield f"nothing is known of an update that was told to be {told.state}"
        return
    runs_it = active is not None and active.manifest_sha256 == update.assignment.manifest_sha256
    if runs_it != (update.state in _SWITCHED):
        yield f"half a switch: {active and active.bundle} runs, and {update.assignment.bundle} is {update.state}"
    is_behind = update.assignment.generation < told.generation
    if update.assignment.generation == told.generation and told.state is not None:
        is_behind = told.state.is_final and update.state is not told.state
        is_behind |= told.state is UpdateState.ACTIVE and not (update.state.is_final or update.state in _SWITCHED)
    if is_behind:
        yield (
            f"assignment {told.generation} was told to be {told.state}, and {update.assignment.generation} is "
            f"{update.state}"
        )


# ---- signed metadata


def _distrusted(device: Path, told: Told) -> Iterator[str]:
    """What is wrong with signed metadata and with the floor under it."""
    member = read_membership(device)
    try:
        marks = from_json((device / "trust" / "floor.json").read_bytes(), dict[str, Mark], what="the floor")
    except (OSError, EdgeloopError) as error:
        marks = {}
        if told.believed:
            yield f"no floor: {error}"
    for repository, versions in told.believed.items():
        mark = marks.get(repository)
        if mark is not None and mark.version < versions[ROLES.index("timestamp")]:
            yield f"the floor of {repository} is at {mark.version}, below {versions} that were believed"
        if marks and mark is None:
            yield f"there is no floor of {repository}, which was believed"
        for role, version in zip(ROLES, versions, strict=True):
            if (repository, role) not in told.begun:
                yield from _fallen(device, repository, role, version, member)


def _fallen(device: Path, repository: str, role: str, version: int, member: Membership) -> Iterator[str]:
    """Why a file of metadata is not what was believed, or newer; python-tuf's own reading and check of signatures."""
    root_bytes = member.images_root if repository == "images" else member.director_root
    what = f"{repository}/{role}.json"
    try:
        root = Metadata[Root].from_bytes(root_bytes).signed
        data = (device / "trust" / repository / f"{role}.json").read_bytes()
        found = Metadata.from_bytes(data)  # type: ignore[var-annotated]
        root.verify_delegate(role, found.signed_bytes, found.signatures)
    except (OSError, RepositoryError) as error:
        yield f"{what}: {type(error).__name__}: {error}"
        return
    if found.signed.version < version:
        yield f"{what} is at {found.signed.version}, below the {version} that was believed"


def _lost(device: Path, kept: int, corrupt: list[str]) -> int:
    """How many acknowledged rows the outbox lacks; sequences are given one after another, from 1 on."""
    try:
        outbox = open_outbox(device, "cam")
        own = {event.sequence for event in outbox.events()}
        outbox.close()
    except EdgeloopError as error:
        corrupt.append(str(error))
        return kept
    return len(set(range(1, kept + 1)) - own)
