"""Write the whole cloud to one file, also while it serves.

The database first, in one transaction; then the blobs that its rows name. Blobs are written before the rows that name
them and are not removed, so all of them are there.
"""

import asyncio
import os
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import sqlalchemy as sa

from edgeloop import __version__
from edgeloop.bundle.durable import fsync_folder, translated
from edgeloop.cloud.backup.archive import DATABASE, Contents, Entry, add, finish
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import require_founded
from edgeloop.cloud.store import inbox, jobs, registry
from edgeloop.cloud.store.blobs import Blobs, open_blobs
from edgeloop.cloud.store.copying import compact, snapshot
from edgeloop.cloud.store.engine import open_engine
from edgeloop.cloud.store.tables import bundles, samples
from edgeloop.cloud.store.tables import jobs as job_rows
from edgeloop.contracts.codec import from_json
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import Manifest

_PIECE_BYTES = 1024 * 1024
_NOT_KEPT = (".db", ".db-wal", ".db-shm", ".lock")
_MADE = "backup"


def back_up(config: CloudConfig, file: Path) -> Contents:
    """Make a new file, readable by its owner alone. It holds the keys that the server signs with by itself.

    Raises InvalidInput if there is such a file already or it cannot be written; NotFound if there is no cloud;
    Corrupt if a blob is missing or is not what it is named after; Unavailable if a store does not answer.
    """
    if file.exists():
        raise InvalidInput(f"{file} is there already; a backup never writes over another one. Choose another name.")
    require_founded(config)
    blobs = open_blobs(config.blobs_folder, config.blobs_url)
    with (
        translated(file, doing="write"),
        tempfile.TemporaryDirectory(prefix=f".{file.name[:40]}.", dir=file.parent) as work,
    ):
        made = asyncio.run(_write(config, blobs, Path(work)))
        (Path(work) / _MADE).rename(file)
        fsync_folder(file.parent)
    return made


async def _write(config: CloudConfig, blobs: Blobs, work: Path) -> Contents:
    made_at_s = time.time()
    version = snapshot(config.sqlalchemy_url, work / DATABASE)
    named = _named_blobs(work / DATABASE)
    with (work / _MADE).open("wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            contents = Contents(
                edgeloop=__version__,
                made_at_s=made_at_s,
                version=version,
                database=await add(archive, "", DATABASE, _pieces(work / DATABASE)),
                files=tuple(
                    [await add(archive, "files/", path, _pieces(config.folder / path)) for path in _files(config)]
                ),
                blobs=tuple([await _add_blob(archive, blobs, key) for key in named]),
            )
            finish(archive, contents)
        file.flush()
        os.fchmod(file.fileno(), 0o600)
        os.fsync(file.fileno())
    return contents


async def _add_blob(archive: zipfile.ZipFile, blobs: Blobs, key: str) -> Entry:
    try:
        entry = await add(archive, "blobs/", key, blobs.pieces(key))
    except NotFound as error:
        raise Corrupt(
            f"the database names the blob {key}, which is not there: was it removed, or is this the wrong place for "
            "blobs (--blobs)? Bring it back; without it there is no whole backup."
        ) from error
    if key.startswith(registry.FILES) and entry.sha256 != key.rpartition("/")[2]:
        raise Corrupt(f"the blob {key} is not what it is named after: it was damaged. Publish that file again.")
    return entry


def _named_blobs(file: Path) -> list[str]:
    """The keys of all blobs that the snapshot's rows name, whatever its schema's version."""
    engine = open_engine(f"sqlite:///{file}")
    keys: set[str] = set()
    try:
        with engine.connect() as connection:
            for text in connection.execute(sa.select(bundles.c.manifest)).scalars():
                manifest = from_json(text.encode(), Manifest, what="a stored manifest")
                keys |= {registry.file_key(entry.sha256) for entry in manifest.files}
            keys |= {inbox.sample_key(sha256) for sha256 in connection.execute(sa.select(samples.c.sha256)).scalars()}
            for job_id, names in connection.execute(sa.select(job_rows.c.job_id, job_rows.c.artifacts)):
                keys |= {jobs.artifact_key(job_id, name) for name in msgspec.json.decode(names, type=list[str])}
    finally:
        engine.dispose()
    compact(file)
    return sorted(keys)


def _files(config: CloudConfig) -> list[str]:
    """What is in the cloud's folder beside database and blobs: online keys, certificates, the operator's file."""
    found = (path for path in config.folder.rglob("*") if path.is_file() and path.suffix not in _NOT_KEPT)
    return sorted(
        path.relative_to(config.folder).as_posix()
        for path in found
        if config.blobs_folder not in path.parents and not path.name.startswith(".")
    )


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece
