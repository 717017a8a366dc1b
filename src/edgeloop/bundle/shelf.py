"""Bundles kept in a folder, by content: what a device or node has fetched so far, complete or in part.

    SHELF/files/SHA256          one file a content, shared by all versions
    SHELF/files/SHA256.part     a download that can be taken up again
    SHELF/NAME/VERSION.json     manifests

A manifest is put down only after the files that it needs, so what the shelf lists is whole. What the disk does comes
out as `durable.storage_error` says: only what has another hash than its name is Corrupt.
"""

import hashlib
import os
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgeloop.bundle.archive import Bundle, digest, parse_manifest
from edgeloop.bundle.durable import fsync_folder, translated, write_durable
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Unavailable
from edgeloop.contracts.names import BundleRef, version_key

_SPARE_BYTES = 1024 * 1024
"""Left free beside a download: the databases beside it must be able to go on."""


class Shelf:
    """A folder of bundles by hash. Safe against a kill at any instant; one writer at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def folder(self) -> Path:
        """Where it lies, for another process that reads it."""
        return self._folder

    def read(self, sha256: str) -> bytes:
        """The file's bytes. Raises NotFound if it was not fetched."""
        with self.opened(sha256) as file:
            return file.read()

    @contextmanager
    def opened(self, sha256: str) -> Iterator[BinaryIO]:
        """The file, to be read piece by piece. Raises NotFound if it was not fetched."""
        path = self._file(sha256)
        with translated(path, doing="read"):
            if not path.is_file():
                raise NotFound(f"file {sha256[:12]} is not in {self._folder}; it was not fetched, or was removed")
            with path.open("rb") as file:
                yield file

    def remove(self, sha256: str) -> None:
        """Let go of a file, whole or in part, that no version needs."""
        self.discard_part(sha256)
        self._unlink(self._file(sha256))

    def has(self, sha256: str) -> bool:
        """True when the whole file is here."""
        with translated(self._file(sha256), doing="read"):
            return self._file(sha256).is_file()

    def is_sound(self, sha256: str) -> bool:
        """Whether the whole file is here and has its hash; what the disk does not give back is as good as damaged."""
        try:
            return digest(self.read(sha256)) == sha256
        except (NotFound, Unavailable):
            return False

    def part_size_bytes(self, sha256: str) -> int:
        """How much of a broken-off download is here."""
        part = self._part(sha256)
        with translated(part, doing="read"):
            return part.stat().st_size if part.is_file() else 0

    def require_room(self, size_bytes: int) -> None:
        """Raise Unavailable unless so many bytes fit onto the disk, and a little more; nothing is begun otherwise."""
        place = next(one for one in (self._folder, *self._folder.absolute().parents) if one.exists())
        with translated(place, doing="read"):
            free_bytes = shutil.disk_usage(place).free
        if free_bytes < size_bytes + _SPARE_BYTES:
            raise Unavailable(
                f"no room for a download of {size_bytes:,} bytes at {self._folder}: {free_bytes:,} are free, and "
                f"{_SPARE_BYTES:,} are left for the rest. Free some space; it is tried again."
            )

    def append_part(self, sha256: str, chunk: bytes) -> None:
        """Add to a download. Raises Unavailable when the disk is full; what is there stays."""
        part = self._part(sha256)
        with translated(part, doing="write", size_bytes=len(chunk)):
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab") as file:
                file.write(chunk)

    def discard_part(self, sha256: str) -> None:
        """Forget a download."""
        self._unlink(self._part(sha256))

    def finish_part(self, sha256: str) -> None:
        """Verify a finished download and put it in place, fsynced. Raises Corrupt (and forgets it) if it is wrong."""
        part = self._part(sha256)
        if not part.is_file():
            raise NotFound(f"no download of {sha256[:12]} was begun in {self._folder}")
        with translated(part, doing="read"):
            with part.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                if found == sha256:
                    os.fsync(file.fileno())
            if found != sha256:
                self.discard_part(sha256)
                raise Corrupt(f"download of {sha256[:12]} has another hash, {found[:12]}; it was thrown away")
            part.replace(self._file(sha256))
            fsync_folder(part.parent)

    def forget(self, ref: BundleRef) -> None:
        """Unlist a version that does not load, with those of its files that are damaged: they can be fetched anew."""
        path = self._manifest(ref)
        if not path.is_file():
            return
        try:
            listed = [entry.sha256 for entry in self.open(ref).manifest.files]
        except (Corrupt, InvalidInput, Unavailable):
            listed = []
        for sha256 in listed:
            if not self.is_sound(sha256):
                self._unlink(self._file(sha256))
        self._unlink(path)

    def unlist(self, ref: BundleRef) -> None:
        """Its files stay until `prune`: it may come again."""
        self._unlink(self._manifest(ref))

    def put(self, sha256: str, data: bytes) -> None:
        """Keep a file that is already in hand."""
        if digest(data) != sha256:
            raise Corrupt(f"content does not have the hash {sha256[:12]}")
        write_durable(self._file(sha256), data)

    def put_manifest(self, manifest_bytes: bytes) -> BundleRef:
        """List a version; its needed files must be here already."""
        ref = parse_manifest(manifest_bytes).ref
        write_durable(self._manifest(ref), manifest_bytes)
        return ref

    def open(self, ref: BundleRef) -> Bundle:
        """The bundle, with those of its files that are here. Raises NotFound if the version is not listed."""
        path = self._manifest(ref)
        with translated(path, doing="read"):
            if not path.is_file():
                kept = ", ".join(str(one) for one in self.refs()) or "none"
                raise NotFound(f"{ref} is not kept here; kept: {kept}")
            data = path.read_bytes()
        return Bundle(parse_manifest(data, what=str(path)), self, manifest_bytes=data)

    def refs(self) -> list[BundleRef]:
        """All listed versions, oldest first."""
        found = [BundleRef(path.parent.name, path.stem) for path in self._folder.glob("*/*.json")]
        return sorted(found, key=lambda ref: (ref.name, version_key(ref.version)))

    def refs_by_arrival(self) -> list[BundleRef]:
        """All listed versions: the bundle that came last at the end, and of each the oldest version first."""
        refs, came_s = self.refs(), dict[str, float]()
        with translated(self._folder, doing="read"):
            for ref in refs:
                came_s[ref.name] = max(came_s.get(ref.name, 0.0), self._manifest(ref).stat().st_mtime)
        return sorted(refs, key=lambda ref: came_s[ref.name])

    def prune(self, keep: set[BundleRef]) -> None:
        """Remove the versions that are not in `keep`, and then the files that no version needs."""
        for ref in self.refs():
            if ref not in keep:
                self._unlink(self._manifest(ref))
        self.keep_files({entry.sha256 for ref in self.refs() for entry in self.open(ref).manifest.files})

    def keep_files(self, needed: Container[str]) -> None:
        """Remove all files but these, whole or in part."""
        for path in self._folder.glob("files/*"):
            is_manifest = path.suffix == ".json"  # of a bundle that is named files: older edgeloops took that name
            if not is_manifest and path.name.removesuffix(".part") not in needed:
                self._unlink(path)

    def _unlink(self, path: Path) -> None:
        with translated(path, doing="write"):
            path.unlink(missing_ok=True)

    def _file(self, sha256: str) -> Path:
        return self._folder / "files" / sha256

    def _part(self, sha256: str) -> Path:
        return self._folder / "files" / f"{sha256}.part"

    def _manifest(self, ref: BundleRef) -> Path:
        return self._folder / ref.name / f"{ref.version}.json"
