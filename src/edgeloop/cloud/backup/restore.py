"""Make a cloud of a backup, where there is none: also on another kind of database, or in another place for blobs.

Rules kept here: every byte is checked against its hash before anything is written; nothing is written over; the
cloud's folder appears last and whole, so that a restore that was cut short is none. Rows that it left in a database
elsewhere are marked as such until then, and a second try takes them away.

A device may know more than the backup, having been given something after it was made. So what is assigned from now on
counts up from far above, and is news to every device; and so do the versions of all that the server signs. The list of
bundles is signed elsewhere, and is lifted there: `toolchain.keys.lift`. And what people did after it was made is lost:
a rollout that was under way in the backup may have been stopped since, so all of them are paused.
"""

import asyncio
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from edgeloop.bundle.durable import fsync_folder, make_folder, translated
from edgeloop.cloud.backup.archive import DATABASE, Contents, Entry, open_backup, read, read_contents
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.store.blobs import Blobs, open_blobs
from edgeloop.cloud.store.copying import compact, is_left_over, note_in_service, pour, require_empty
from edgeloop.cloud.store.engine import open_engine, parse_url
from edgeloop.cloud.store.restores import note_restore
from edgeloop.cloud.store.rollouts import pause_all
from edgeloop.cloud.store.schema import migrate
from edgeloop.contracts.errors import InvalidInput


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
        parent = config.folder.absolute().parent
        with translated(config.folder, doing="write"):
            make_folder(parent)
            with tempfile.TemporaryDirectory(prefix=f".{config.folder.name[:40]}.", dir=parent) as work:
                _build(config, archive, contents, Path(work) / "cloud")
                (Path(work) / "cloud").rename(config.folder)
                fsync_folder(parent)
            if config.database_url is not None:
                note_in_service(config.sqlalchemy_url)
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
    _prepare(folder / DATABASE, contents, is_whole=not is_elsewhere)
    place = folder / config.blobs_folder.relative_to(config.folder)
    asyncio.run(_put_blobs(archive, contents, open_blobs(place, config.blobs_url)))
    if is_elsewhere:
        pour(folder / DATABASE, config.sqlalchemy_url)
        (folder / DATABASE).unlink()
    for one in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        fsync_folder(one)


def _require_new(url: str) -> None:
    parsed = parse_url(url)
    if parsed.get_backend_name() == "postgresql" or not Path(parsed.database or "").exists():
        require_empty(url)
    elif not is_left_over(url):
        raise InvalidInput(f"{parsed.database} is there already; restore into a new file")


async def _put_blobs(archive: zipfile.ZipFile, contents: Contents, blobs: Blobs) -> None:
    await blobs.check()
    for entry in contents.blobs:
        await blobs.put(entry.path, b"".join(read(archive, "blobs/", entry)))


def _prepare(file: Path, contents: Contents, *, is_whole: bool) -> None:
    """Bring the snapshot to the newest schema, and note the restore in it.

    is_whole: it appears together with the cloud's folder; else a second try must find that this one was cut short.
    """
    engine = open_engine(f"sqlite:///{file}")
    try:
        migrate(engine)
        with engine.begin() as connection:
            now_s = time.time()
            note_restore(connection, made_at_s=contents.made_at_s, now_s=now_s, is_whole=is_whole)
            made_at = datetime.fromtimestamp(contents.made_at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
            pause_all(
                connection,
                f"restored from a backup of {made_at}, what was done to it since is not known: resume it, or abort it",
                now_s=now_s,
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
