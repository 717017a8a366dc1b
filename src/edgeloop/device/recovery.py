"""What a device remembers of its versions, also where the file of it was damaged.

Rules kept here: a damaged file does not leave a device without a model: the newest version that is whole on the shelf
runs, and the others can be gone back to; nothing is destroyed: the damaged file stays beside the new one, the newest of
them only; there is a file at any instant. What was turned down, the day's account and where a source stood are lost;
what must not be gone back behind is in a file of its own, see `transport.trust`. Neighbours: `state` remembers, `shelf`
lists only what was accepted here and was not left.
"""

from collections.abc import Iterable
from pathlib import Path

import structlog

from edgeloop.bundle.archive import digest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Corrupt, EdgeloopError
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.names import BundleRef
from edgeloop.device.state import Installed, Versions
from edgeloop.runtime.candidates import candidates
from edgeloop.transport.keep import Keep, open_sound
from edgeloop.transport.salvage import put_in_place, remove

_log = structlog.get_logger(__name__)


def open_or_begin_anew(path: Path, shelf: Shelf, engines: Iterable[EngineName], *, kept: int) -> tuple[Keep, str]:
    """The record of this file or, where that is damaged, one that begins with what is on the shelf; and what to tell of
    it, "" if all is well. kept: see Versions.

    Raises what Keep does, but Corrupt, and Unavailable where the disk has no room for a new file.
    """
    try:
        return open_sound(path), ""
    except Corrupt as error:
        told = _begin_anew(path, whole_versions(shelf, engines), kept=kept)
        _log.error("record_begun_anew", path=str(path), error=str(error), detail=told)
        return open_sound(path), told


def whole_versions(shelf: Shelf, engines: Iterable[EngineName]) -> list[Installed]:
    """The versions on the shelf that could run, the newest of the bundle that came last first."""
    able = tuple(engines)
    found = [one for ref in shelf.refs_by_arrival() if (one := _whole(shelf, ref, able)) is not None]
    return found[::-1]


def _whole(shelf: Shelf, ref: BundleRef, engines: tuple[EngineName, ...]) -> Installed | None:
    """With the variant that was accepted: candidates are tried in their order, and one is fetched only when those
    before it have failed; so it is the last that is here."""
    try:
        bundle = shelf.open(ref)
        here = [one for one in candidates(bundle.manifest, engines) if shelf.has(one.file)]
        if not here:
            return None
        for sha256 in (here[-1].file, *bundle.manifest.shared_files):
            bundle.read(sha256)
    except EdgeloopError as error:
        _log.warning("version_is_not_whole", bundle=str(ref), detail=str(error))
        return None
    return Installed(str(ref), here[-1].file, digest(bundle.manifest_bytes))


def _begin_anew(path: Path, found: list[Installed], *, kept: int) -> str:
    fresh = path.with_name(f"{path.name}.mended")
    remove(fresh)
    keep = Keep(fresh)
    try:
        Versions(keep, kept=kept).begin_with(found)
    finally:
        keep.close()
    beside = put_in_place(path, fresh)
    runs = f"{found[0].bundle}, the newest that is whole here, runs" if found else "no version is whole here"
    return f"the file of this device's versions was damaged: {runs}. The damaged file lies beside it as {beside.name}."
