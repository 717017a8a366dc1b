"""The backup's file: a ZIP of the database's snapshot, the folder's files and the blobs, and a list with their hashes.

The list comes last and the ZIP's directory after it, so a file that was cut off is no backup. Names in it are checked
before any of them becomes a path.
"""

import hashlib
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path, PurePosixPath
from typing import NoReturn

import msgspec

from edgeloop.contracts.codec import SCHEMA, from_json, to_json
from edgeloop.contracts.errors import Corrupt, NotFound

CONTENTS = "contents.json"
DATABASE = "cloud.db"
_PIECE_BYTES = 1024 * 1024
_MAX_CONTENTS_BYTES = 512 * 1024 * 1024


class Entry(msgspec.Struct, frozen=True):
    """One file. path: its name in the folder, or its key among the blobs; sha256 of its bytes."""

    path: str
    sha256: str
    size_bytes: int


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds. version: of the database's schema; made_at_s: since 1970 UTC, when it was begun."""

    edgeloop: str
    made_at_s: float
    version: str
    database: Entry
    files: tuple[Entry, ...]
    blobs: tuple[Entry, ...]
    schema: int = SCHEMA

    def figures(self) -> dict[str, object]:
        """For people and machines."""
        entries = (self.database, *self.files, *self.blobs)
        return {
            "schema": self.version,
            "files": len(self.files),
            "blobs": len(self.blobs),
            "size_bytes": sum(entry.size_bytes for entry in entries),
        }


async def add(archive: zipfile.ZipFile, folder: str, path: str, pieces: AsyncIterator[bytes]) -> Entry:
    """Write one entry, `folder` and `path` being its name."""
    hashed, size_bytes = hashlib.sha256(), 0
    with archive.open(zipfile.ZipInfo(folder + path), "w", force_zip64=True) as file:
        async for piece in pieces:
            file.write(piece)
            hashed.update(piece)
            size_bytes += len(piece)
    return Entry(path, hashed.hexdigest(), size_bytes)


def finish(archive: zipfile.ZipFile, contents: Contents) -> None:
    """Write the list."""
    archive.writestr(zipfile.ZipInfo(CONTENTS), to_json(contents))


def open_backup(path: Path) -> zipfile.ZipFile:
    """Raises NotFound, or Corrupt if it is no whole backup."""
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise NotFound(f"there is no backup {path}") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise Corrupt(f"{path} is no backup, or not all of one: {error}. Use another copy of it.") from error


def read_contents(archive: zipfile.ZipFile) -> Contents:
    """The list, every name in it checked. Raises Corrupt."""
    try:
        if archive.getinfo(CONTENTS).file_size > _MAX_CONTENTS_BYTES:
            _bad(f"its {CONTENTS} is too large")
        contents = from_json(archive.read(CONTENTS), Contents, what=CONTENTS)
    except (KeyError, zipfile.BadZipFile) as error:
        raise Corrupt(f"{archive.filename} is no backup of a cloud: {error}") from error
    for entry in (*contents.files, *contents.blobs):
        parts = PurePosixPath(entry.path)
        if parts.is_absolute() or ".." in parts.parts or str(parts) != entry.path or not entry.path.isprintable():
            _bad(f"it names a file {entry.path[:200]!r}")
    return contents


def read(archive: zipfile.ZipFile, folder: str, entry: Entry) -> Iterator[bytes]:
    """An entry's bytes, a piece at a time. Raises Corrupt, at the latest after the last piece, if they are others."""
    hashed, left_bytes = hashlib.sha256(), entry.size_bytes
    try:
        with archive.open(folder + entry.path) as file:
            while piece := file.read(_PIECE_BYTES):
                hashed.update(piece)
                left_bytes -= len(piece)
                if left_bytes < 0:
                    break
                yield piece
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise Corrupt(f"the backup's {folder}{entry.path} cannot be read: {error}. Use another copy of it.") from error
    if left_bytes or hashed.hexdigest() != entry.sha256:
        _bad(f"its {folder}{entry.path} is not what was put into it")


def _bad(why: str) -> NoReturn:
    raise Corrupt(f"the backup was damaged or changed: {why}. Use another copy of it.")
