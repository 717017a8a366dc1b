"""Bundles kept in a folder, by content: what a device or node has fetched so far, complete or in part.

    SHELF/files/SHA256          one file a content, shared by all versions
    SHELF/files/SHA256.part     a download that can be taken up again
    SHELF/NAME/VERSION.json     manifests

A manifest is put down only after the files that it needs, so what the shelf lists is whole.
"""

import hashlib
import os
import shutil
from pathlib import Path

from edgeloop.bundle.archive import Bundle, digest, parse_manifest
from edgeloop.bundle.durable import fsync_folder, storage_error, write_durable
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
        path = self._file(sha256)
        if not path.is_file():
            raise NotFound(f"file {sha256[:12]} is not in {self._folder}; it was not fetched, or was removed")
        return path.read_bytes()

    def has(self, sha256: str) -> bool:
        """True when the whole file is here."""
        return self._file(sha256).is_file()

    def part_size_bytes(self, sha256: str) -> int:
        """How much of a broken-off download is here."""
        part = self._part(sha256)
        return part.stat().st_size if part.is_file() else 0

    def require_room(self, size_bytes: int) -> None:
        """Raise Unavailable unless so many bytes fit onto the disk, and a little more; nothing is begun otherwise."""
        place = next(one for one in (self._folder, *self._folder.absolute().parents) if one.exists())
        free_bytes = shutil.disk_usage(place).free
        if free_bytes < size_bytes + _SPARE_BYTES:
            raise Unavailable(
                f"no room for a download of {size_bytes:,} bytes at {self._folder}: {free_bytes:,} are free, and "
                f"{_SPARE_BYTES:,} are left for the rest. Free some space; it is tried again."
            )

    def append_part(self, sha256: str, chunk: bytes) -> None:
        """Add to a download. Raises Unavailable when the disk is full; what is there stays."""
        part = self._part(sha256)
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab") as file:
                file.write(chunk)
        except OSError as error:
            raise storage_error(error, part, size_bytes=len(chunk)) from error

    def discard_part(self, sha256: str) -> None:
        """Forget a download."""
        self._part(sha256).unlink(missing_ok=True)

    def finish_part(self, sha256: str) -> None:
        """Verify a finished download and put it in place, fsynced. Raises Corrupt (and forgets it) if it is wrong."""
        part = self._part(sha256)
        if not part.is_file():
            raise NotFound(f"no download of {sha256[:12]} was begun in {self._folder}")
        try:
            with part.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                if found != sha256:
                    self.discard_part(sha256)
                    raise Corrupt(f"download of {sha256[:12]} has another hash, {found[:12]}; it was thrown away")
                os.fsync(file.fileno())
            part.replace(self._file(sha256))
            fsync_folder(part.parent)
        except OSError as error:
            raise storage_error(error, part, size_bytes=0) from error

    def forget(self, ref: BundleRef) -> None:
        """Unlist a version that does not load, with those of its files that are damaged: they can be fetched anew."""
        path = self._manifest(ref)
        if not path.is_file():
            return
        try:
            listed = [entry.sha256 for entry in self.open(ref).manifest.files]
        except (Corrupt, InvalidInput):
            listed = []
        for sha256 in listed:
            if self.has(sha256) and digest(self.read(sha256)) != sha256:
                self._file(sha256).unlink()
        path.unlink()

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
        if not path.is_file():
            kept = ", ".join(str(one) for one in self.refs()) or "none"
            raise NotFound(f"{ref} is not kept here; kept: {kept}")
        data = path.read_bytes()
        return Bundle(parse_manifest(data, what=str(path)), self, manifest_bytes=data)

    def refs(self) -> list[BundleRef]:
        """All listed versions, oldest first."""
        found = [BundleRef(path.parent.name, path.stem) for path in self._folder.glob("*/*.json")]
        return sorted(found, key=lambda ref: (ref.name, version_key(ref.version)))

    def prune(self, keep: set[BundleRef]) -> None:
        """Remove the versions that are not in `keep`, and then the files that no version needs."""
        for ref in self.refs():
            if ref not in keep:
                self._manifest(ref).unlink()
        needed = {entry.sha256 for ref in self.refs() for entry in self.open(ref).manifest.files}
        for path in self._folder.glob("files/*"):
            if path.name.removesuffix(".part") not in needed:
                path.unlink()

    def _file(self, sha256: str) -> Path:
        return self._folder / "files" / sha256

    def _part(self, sha256: str) -> Path:
        return self._folder / "files" / f"{sha256}.part"

    def _manifest(self, ref: BundleRef) -> Path:
        return self._folder / ref.name / f"{ref.version}.json"
