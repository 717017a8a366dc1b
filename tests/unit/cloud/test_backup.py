"""Backups of real clouds, on SQLite and a folder, and on PostgreSQL and a bucket, restored onto either."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from builders import make_parts
from edgeloop.bundle.archive import digest
from edgeloop.cloud.app import open_stores
from edgeloop.cloud.backup.archive import CONTENTS
from edgeloop.cloud.backup.make import back_up
from edgeloop.cloud.backup.restore import restore
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.cloud.hub import Stores
from edgeloop.cloud.store import fleet, inbox, jobs, registry
from edgeloop.cloud.store.database import Database
from edgeloop.cloud.store.engine import open_engine
from edgeloop.cloud.store.schema import known_versions, migrate
from edgeloop.cloud.store.tables import metadata, restores
from edgeloop.contracts.api import JobRequest, JoinTokenRequest
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Unavailable
from edgeloop.contracts.messages import Assignment
from small_cloud import enrol_request, event, sample

Places = Callable[[str, Path], CloudConfig]


@pytest.fixture
def places(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Where a cloud of a kind is kept."""

    def at(kind: str, folder: Path) -> CloudConfig:
        if kind == "one machine":
            return CloudConfig(folder=folder)
        s3 = request.getfixturevalue("s3")
        for name, value in s3.environment().items():
            monkeypatch.setenv(name, value)
        database = request.getfixturevalue("postgres").new_database()
        return CloudConfig(folder=folder, database_url=database, blobs_url=s3.new_bucket())

    return at


def _fill(stores: Stores) -> None:
    """A fleet, a bundle, readings, samples, a job with what it made."""
    database = stores.database
    for name in ("camera-1", "camera-2"):
        secret = database.write_now(lambda c: fleet.make_join_token(c, JoinTokenRequest(), now_s=0.0))
        request = enrol_request(name, secret)
        database.write_now(lambda c, request=request: fleet.enrol(c, request, now_s=0.0))
    database.write_now(lambda c: _assign(c, "camera-1"))
    parts = make_parts()
    job = database.write_now(lambda c: jobs.add_job(c, JobRequest(kind="train", bundle="tiny@1.0.0"), now_s=0.0))
    taken = (event(1), event(2, sample(b"pixels")), event(3, epoch=2**63 - 1, device_id="camera-2"))

    async def put() -> None:
        for sha256, data in parts.files.items():
            await stores.blobs.put(registry.file_key(sha256), data)
        await stores.blobs.put(inbox.sample_key(digest(b"pixels")), b"pixels")
        await stores.blobs.put(jobs.artifact_key(job.job_id, "model.zip"), b"made")

    asyncio.run(put())
    manifest = to_json(parts.manifest)
    database.write_now(lambda c: registry.add_bundle(c, parts.manifest, manifest, (2, b"{}"), now_s=1.0))
    database.write_now(lambda c: jobs.add_artifact(c, job.job_id, "model.zip"))
    database.write_now(lambda c: inbox.add_events(c, taken))


def _assign(connection: sa.Connection, name: str) -> int:
    wanted = Assignment(generation=0, rollout_id="r", bundle="tiny@1.0.0", manifest_sha256="0" * 64)
    return fleet.assign(connection, name, wanted, now_s=0.0)


def _everything(config: CloudConfig) -> dict[str, object]:
    """All rows, and all blobs that _fill put in; but for what a restore adds."""
    stores = open_stores(config)
    try:
        rows: dict[str, object] = {
            table.name: sorted(
                stores.database.read_now(lambda c, t=table: [tuple(row) for row in c.execute(sa.select(t))])
            )
            for table in metadata.sorted_tables
            if table.name not in ("restores", "used_nonces")
        }
        keys = [registry.file_key(sha256) for sha256 in make_parts().files]
        keys += [inbox.sample_key(digest(b"pixels"))]
        (job,) = stores.database.read_now(lambda c: jobs.list_jobs(c, bundle=None))
        keys += [jobs.artifact_key(job.job_id, "model.zip")]
        return rows | {key: asyncio.run(stores.blobs.get(key)) for key in keys}
    finally:
        stores.database.close()


def _founded(config: CloudConfig, folder: Path) -> CloudConfig:
    found(config, keys=folder / "keys", url="http://cloud.test")
    stores = open_stores(config)
    _fill(stores)
    stores.database.close()
    return config


@pytest.fixture
def founded(tmp_path: Path) -> CloudConfig:
    """A cloud on one machine, with something in it."""
    return _founded(CloudConfig(folder=tmp_path / "cloud"), tmp_path)


@pytest.mark.parametrize("before", ["one machine", "several replicas"])
@pytest.mark.parametrize("after", ["one machine", "several replicas"])
def test_restored_cloud_holds_what_the_other_one_held(places: Places, tmp_path: Path, before: str, after: str) -> None:
    old = _founded(places(before, tmp_path / "old"), tmp_path)
    new = places(after, tmp_path / "new")
    back_up(old, tmp_path / "backup")
    restore(new, tmp_path / "backup")
    assert _everything(new) == _everything(old)
    for name in ("operator.json", "online/images.pem", "online/director.pem"):
        assert (new.folder / name).read_bytes() == (old.folder / name).read_bytes()


def test_log_goes_on_counting_after_a_restore_onto_postgresql(places: Places, tmp_path: Path) -> None:
    old = _founded(places("one machine", tmp_path / "old"), tmp_path)
    database = Database(old.sqlalchemy_url)
    for _ in range(3):
        database.write_now(_log)
    database.close()
    back_up(old, tmp_path / "backup")
    new = places("several replicas", tmp_path / "new")
    restore(new, tmp_path / "backup")
    database = Database(new.sqlalchemy_url)
    entry = database.write_now(_log)
    database.close()
    assert entry == 4


def _log(connection: sa.Connection) -> int:
    table = metadata.tables["access_log"]
    row = {"at_s": 0.0, "who": "me", "role": "owner", "address": "", "action": "a", "target": ""}
    return int(connection.execute(table.insert().values(**row).returning(table.c.entry)).scalar_one())


def test_backup_while_writes_go_on_is_whole(founded: CloudConfig, tmp_path: Path) -> None:
    """Each write brings a sample and its blob; whatever sample the backup knows, it has."""
    stores = open_stores(founded)
    ending = threading.Event()

    def write() -> None:
        number = 10
        while not ending.is_set():
            data = f"{number}".encode()
            asyncio.run(stores.blobs.put(inbox.sample_key(digest(data)), data))
            batch = (event(number, sample(data)), *(event(number + 1 + index) for index in range(50)))
            stores.database.write_now(lambda c, batch=batch: inbox.add_events(c, batch))
            number += 100

    writing = threading.Thread(target=write)
    writing.start()
    try:
        backups = [back_up(founded, tmp_path / f"backup-{number}") for number in range(3)]
    finally:
        ending.set()
        writing.join()
        stores.database.close()
    assert len(backups[0].blobs) <= len(backups[1].blobs) <= len(backups[2].blobs)
    new = CloudConfig(folder=tmp_path / "new")
    restore(new, tmp_path / "backup-2")
    restored = open_stores(new)
    views = restored.database.read_now(lambda c: inbox.list_samples(c, device_id=None, labelled=None, limit=10_000))
    counts = restored.database.read_now(inbox.count_events)
    restored.database.close()
    assert len(views) == len([blob for blob in backups[2].blobs if blob.path.startswith("samples/")])
    # Batches are in it whole or not at all.
    assert all((row.readings + row.samples) % 51 == 2 for row in counts if row.device_id == "camera-1")


def test_backup_is_for_its_owner_alone(founded: CloudConfig, tmp_path: Path) -> None:
    back_up(founded, tmp_path / "backup")
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600


def test_backup_never_writes_over_a_file(founded: CloudConfig, tmp_path: Path) -> None:
    (tmp_path / "backup").write_bytes(b"dear")
    with pytest.raises(InvalidInput, match="never writes over"):
        back_up(founded, tmp_path / "backup")
    assert (tmp_path / "backup").read_bytes() == b"dear"


@pytest.mark.parametrize("kind", ["one machine", "several replicas"])
def test_backup_of_no_cloud_is_not_found_and_leaves_nothing(places: Places, tmp_path: Path, kind: str) -> None:
    with pytest.raises(NotFound, match="cloud init"):
        back_up(places(kind, tmp_path / "nowhere"), tmp_path / "backup")
    assert list(tmp_path.iterdir()) == []


def test_backup_of_another_database_than_the_clouds_is_not_found(
    founded: CloudConfig, places: Places, tmp_path: Path
) -> None:
    elsewhere = places("several replicas", founded.folder)
    with pytest.raises(NotFound, match="no cloud in this database"):
        back_up(elsewhere, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()


def test_missing_blob_is_said_and_no_backup_is_left(founded: CloudConfig, tmp_path: Path) -> None:
    (founded.blobs_folder / inbox.sample_key(digest(b"pixels"))).unlink()
    with pytest.raises(Corrupt, match=r"samples/.*not there"):
        back_up(founded, tmp_path / "backup")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cloud", "keys"]


def test_damaged_file_of_a_bundle_is_said(founded: CloudConfig, tmp_path: Path) -> None:
    path = founded.blobs_folder / registry.file_key(next(iter(make_parts().files)))
    path.write_bytes(b"?" + path.read_bytes()[1:])
    with pytest.raises(Corrupt, match=r"files/.*damaged"):
        back_up(founded, tmp_path / "backup")


def test_cloud_of_an_older_schema_is_backed_up_as_it_is_and_restored_as_new(
    founded: CloudConfig, tmp_path: Path
) -> None:
    engine = open_engine(founded.sqlalchemy_url)
    migrate(engine, to="0003")
    engine.dispose()
    assert back_up(founded, tmp_path / "backup").version == "0003"
    restore(CloudConfig(folder=tmp_path / "new"), tmp_path / "backup")
    with sqlite3.connect(tmp_path / "new" / "cloud.db") as connection:
        told = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    connection.close()
    assert told == (known_versions()[-1],)


# ---- restores that must not be


def test_restore_never_writes_over_a_cloud(founded: CloudConfig, tmp_path: Path) -> None:
    back_up(founded, tmp_path / "backup")
    before = _everything(founded)
    with pytest.raises(InvalidInput, match="something in"):
        restore(founded, tmp_path / "backup")
    assert _everything(founded) == before


def test_restore_never_writes_into_a_database_that_is_in_use(
    founded: CloudConfig, places: Places, tmp_path: Path
) -> None:
    back_up(founded, tmp_path / "backup")
    new = places("several replicas", tmp_path / "new")
    restore(new, tmp_path / "backup")
    shutil.rmtree(new.folder)
    with pytest.raises(InvalidInput, match="in the database already"):
        restore(new, tmp_path / "backup")
    assert not new.folder.exists()


def _damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut off":
        path.write_bytes(data[: len(data) // 2])
    elif how == "a byte":
        data[data.index(b"pixels")] ^= 1
        path.write_bytes(data)
    elif how == "no backup":
        path.write_bytes(b"PK" + os.urandom(1000))
    else:
        _rewrite(path, how)


def _rewrite(path: Path, how: str) -> None:
    """The same ZIP, well formed, with something else in it."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    if how == "other content":
        entries = {name: b"pixelz" if data == b"pixels" else data for name, data in entries.items()}
    elif how == "an entry less":
        entries = {name: data for name, data in entries.items() if data != b"pixels"}
    elif how == "a way out":
        entries[CONTENTS] = entries[CONTENTS].replace(b'"operator.json"', b'"../operator.json"')
        entries["files/../operator.json"] = entries["files/operator.json"]
    else:
        assert how == "no list"
        del entries[CONTENTS]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    "how", ["cut off", "a byte", "no backup", "other content", "an entry less", "a way out", "no list"]
)
def test_damaged_backup_is_turned_down_and_nothing_is_written(founded: CloudConfig, tmp_path: Path, how: str) -> None:
    back_up(founded, tmp_path / "backup")
    _damage(tmp_path / "backup", how)
    with pytest.raises(Corrupt, match=r"another copy|no backup"):
        restore(CloudConfig(folder=tmp_path / "new"), tmp_path / "backup")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "cloud", "keys"]


def test_backup_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="backup"):
        restore(CloudConfig(folder=tmp_path / "new"), tmp_path / "backup")


def test_bucket_that_is_away_leaves_nothing(founded: CloudConfig, places: Places, tmp_path: Path) -> None:
    back_up(founded, tmp_path / "backup")
    new = places("several replicas", tmp_path / "new")
    away = CloudConfig(folder=new.folder, database_url=new.database_url, blobs_url="s3://no-such-bucket/x")
    with pytest.raises(Unavailable, match="bucket"):
        restore(away, tmp_path / "backup")
    assert not new.folder.exists()
    restore(new, tmp_path / "backup")  # the database was left empty


# ---- what comes after


_KILLED = """
import os, signal, sys
from pathlib import Path
from edgeloop.cloud.backup.restore import restore
from edgeloop.cloud.config import CloudConfig

def kill(event, told):
    if event == "os.rename" and os.fspath(told[1]) == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(kill)
restore(CloudConfig(folder=Path(sys.argv[2]), database_url=sys.argv[3]), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_restore_that_was_killed_before_its_folder_was_there_can_be_tried_again(
    founded: CloudConfig, tmp_path: Path, request: pytest.FixtureRequest, kind: str
) -> None:
    back_up(founded, tmp_path / "backup")
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
    config = CloudConfig(folder=tmp_path / "new", database_url=url)
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "backup"), str(config.folder), url]
    assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
    assert not config.folder.exists()
    restore(config, tmp_path / "backup")
    stores = open_stores(config)
    count = stores.database.read_now(lambda c: c.execute(sa.select(sa.func.count()).select_from(restores)).scalar())
    stores.database.close()
    assert count == 1
    shutil.rmtree(config.folder)
    with pytest.raises(InvalidInput, match="already"):  # by now it was in service, and is nobody's to take away
        restore(config, tmp_path / "backup")


def test_assignments_after_a_restore_are_news_to_every_device(founded: CloudConfig, tmp_path: Path) -> None:
    """A device that was given more than the backup knows must still hear of what comes next."""
    back_up(founded, tmp_path / "backup")
    restore(CloudConfig(folder=tmp_path / "new"), tmp_path / "backup")
    database = Database(CloudConfig(folder=tmp_path / "new").sqlalchemy_url)
    kept = database.read_now(lambda c: fleet.assigned(c, "camera-1")).generation
    first, *given = (
        database.write_now(lambda c, name=name: _assign(c, name)) for name in ("camera-1", "camera-1", "camera-2")
    )
    database.close()
    assert (kept, given) == (1, [first + 1, first])
    assert first > 100_000_000


def test_restore_of_a_restored_cloud_goes_on_above_both(founded: CloudConfig, tmp_path: Path) -> None:
    back_up(founded, tmp_path / "backup")
    restore(CloudConfig(folder=tmp_path / "new"), tmp_path / "backup")
    back_up(CloudConfig(folder=tmp_path / "new"), tmp_path / "backup-2")
    restore(CloudConfig(folder=tmp_path / "newer"), tmp_path / "backup-2")
    database = Database(CloudConfig(folder=tmp_path / "newer").sqlalchemy_url)
    given = database.write_now(lambda c: _assign(c, "camera-1"))
    database.close()
    before = Database(CloudConfig(folder=tmp_path / "new").sqlalchemy_url)
    assert given > before.write_now(lambda c: _assign(c, "camera-1"))
    before.close()
