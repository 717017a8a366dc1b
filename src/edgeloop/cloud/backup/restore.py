"""Make a cloud of a backup, where there is none: also on another kind of database, or in another place for blobs.

Rules kept here: every byte is checked against its hash before anything is written; nothing is written over; the
cloud's folder appears last and whole, so that a restore that was cut short is none.

A device may know more than the backup, having been given something after it was made. So what is assigned from now on
counts up from far above (`restores.generation_floor`), and is news to every device.
"""

import asyncio
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

from edgeloop.bundle.durable import fsync_folder, make_folder, storage_error
from edgeloop.cloud.backup.archive import DATABASE, Contents, Entry, open_backup, read, read_contents
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.store.blobs import Blobs, open_blobs
from edgeloop.cloud.store.copying import compact, pour, require_empty
from edgeloop.cloud.store.engine import open_engine, parse_url
from edgeloop.cloud.store.schema import migrate
from edgeloop.cloud.store.tables import assignments, restores
from edgeloop.contracts.errors import InvalidInput

_FAR = 1_000_000
"""Generations that a cloud can have given out between a backup and its loss; never so many."""


def restore(config: CloudConfig, file: Path) -> Contents:
    """Make config.folder, and fill the database and the place for blobs that config names.

    Raises InvalidInput if there is something in any of them; NotFound or Corrupt if the backup is not there or not
    whole; Unavailable if a store does not answer or the disk is full. Then nothing is there that was not before, but
    for blobs in a bucket, which a second try finds.
    """
    if config.folder.exists() and (not config.folder.is_dir() or any(config.folder.iterdir())):
        raise InvalidInput(f"there is something in {config.folder} already; restore into a new folder")
    with open_backup(file) as archive:
        contents = read_contents(archive)
        _verify(archive, contents)
        try:
            make_folder(config.folder.absolute().parent)
            with tempfile.TemporaryDirectory(
                prefix=f".{config.folder.name[:40]}.", dir=config.folder.absolute().parent
            ) as work:
                _build(config, archive, contents, Path(work) / "cloud")
                (Path(work) / "cloud").rename(config.folder)
                fsync_folder(config.folder.absolute().parent)
        except OSError as error:
            raise storage_error(error, config.folder, size_bytes=0) from error
    return contents


def _verify(archive: zipfile.ZipFile, contents: Contents) -> None:
    for folder, entry in _all(contents):
        for _ in read(archive, folder, entry):
            pass


def _build(config: CloudConfig, archive: zipfile.ZipFile, contents: Contents, folder: Path) -> None:
    is_elsewhere = config.database_url is not None
    if is_elsewhere:
        _require_new(config.sqlalchemy_url)
    for entry in contents.files:
        _write(folder / entry.path, read(archive, "files/", entry))
    _write(folder / DATABASE, read(archive, "", contents.database))
    _prepare(folder / DATABASE, contents)
    place = folder / config.blobs_folder.relative_to(config.folder)
    asyncio.run(_put_blobs(archive, contents, open_blobs(place, config.blobs_url)))
    if is_elsewhere:
        pour(folder / DATABASE, config.sqlalchemy_url)
        (folder / DATABASE).unlink()
    for one in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        fsync_folder(one)


def _require_new(url: str) -> None:
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and Path(parsed.database or "").exists():
        raise InvalidInput(f"{parsed.database} is there already; restore into a new file")
    require_empty(url)


async def _put_blobs(archive: zipfile.ZipFile, contents: Contents, blobs: Blobs) -> None:
    await blobs.check()
    for entry in contents.blobs:
        await blobs.put(entry.path, b"".join(read(archive, "blobs/", entry)))


def _prepare(file: Path, contents: Contents) -> None:
    """Bring the snapshot to the newest schema, and note the restore in it."""
    engine = open_engine(f"sqlite:///{file}")
    try:
        migrate(engine)
        with engine.begin() as connection:
            newest = sa.select(sa.func.max(assignments.c.generation)).scalar_subquery()
            before = sa.select(sa.func.max(restores.c.generation_floor)).scalar_subquery()
            given, floor = connection.execute(sa.select(newest, before)).one()
            connection.execute(
                restores.insert().values(
                    restored_at_s=time.time(),
                    made_at_s=contents.made_at_s,
                    generation_floor=max(given or 0, floor or 0) + _FAR,
                )
            )
    finally:
        engine.dispose()
    compact(file)


def _all(contents: Contents) -> Iterator[tuple[str, Entry]]:
    yield "", contents.database
    yield from (("files/", entry) for entry in contents.files)
    yield from (("blobs/", entry) for entry in contents.blobs)


def _write(path: Path, pieces: Iterator[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keys are among them: for the owner alone.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
