"""One suite over the cloud's blobs: in a folder, in memory, and in a bucket of a real S3 server."""

import asyncio
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from obstore.store import LocalStore
from torture.disk import Disk, why_not

from edgeloop.cloud.store.blobs import Blobs, Listed, bucket_blobs, folder_blobs, memory_blobs
from edgeloop.contracts.errors import InvalidInput, NotFound, Unavailable
from s3 import S3Server


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    return s3.new_bucket()


@pytest.fixture(params=["folder", "memory", "bucket"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    if request.param == "bucket":
        return bucket_blobs(request.getfixturevalue("bucket"))
    return folder_blobs(tmp_path / "blobs") if request.param == "folder" else memory_blobs()


@pytest.mark.parametrize("data", [b"x", b"", bytes(range(256)) * 5000], ids=["one byte", "empty", "large"])
def test_blob_is_read_as_it_was_put(blobs: Blobs, data: bytes) -> None:
    asyncio.run(blobs.put("a/b", data))
    assert asyncio.run(blobs.get("a/b")) == data


def test_part_of_a_blob_is_read(blobs: Blobs) -> None:
    asyncio.run(blobs.put("a/b", b"0123456789"))
    assert asyncio.run(blobs.get("a/b", start=3, stop=7)) == b"3456"


def test_same_key_again_replaces(blobs: Blobs) -> None:
    asyncio.run(blobs.put("a/b", b"old and long"))
    asyncio.run(blobs.put("a/b", b"new"))
    assert asyncio.run(blobs.get("a/b")) == b"new"


def test_size_of_a_blob_is_known(blobs: Blobs) -> None:
    asyncio.run(blobs.put("a/b", b"12345"))
    assert asyncio.run(blobs.size_bytes("a/b")) == 5


@pytest.mark.parametrize("key", ["a/c", "a", "b/b"])
def test_blob_that_is_not_there_has_no_size(blobs: Blobs, key: str) -> None:
    asyncio.run(blobs.put("a/b", b"12345"))
    assert asyncio.run(blobs.size_bytes(key)) is None


@pytest.mark.parametrize("part", [{}, {"start": 0, "stop": 1}], ids=["whole", "part"])
def test_blob_that_is_not_there_is_not_found(blobs: Blobs, part: dict[str, int]) -> None:
    with pytest.raises(NotFound, match="a/c"):
        asyncio.run(blobs.get("a/c", **part))


def test_many_at_once_are_kept_apart(blobs: Blobs) -> None:
    async def scenario() -> list[bytes]:
        await asyncio.gather(*(blobs.put(f"k/{index}", f"{index}".encode()) for index in range(50)))
        return await asyncio.gather(*(blobs.get(f"k/{index}") for index in range(50)))

    assert asyncio.run(scenario()) == [f"{index}".encode() for index in range(50)]


def test_folder_outlives_the_process_that_filled_it(tmp_path: Path) -> None:
    asyncio.run(folder_blobs(tmp_path / "blobs").put("a/b", b"x"))
    assert asyncio.run(folder_blobs(tmp_path / "blobs").get("a/b")) == b"x"


def test_folder_may_be_told_from_where_the_process_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asyncio.run(folder_blobs(Path("cloud/blobs")).put("files/ab/x", b"bytes"))
    assert asyncio.run(folder_blobs(tmp_path / "cloud/blobs").get("files/ab/x")) == b"bytes"


def test_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    blobs = folder_blobs(tmp_path / "blobs")
    (tmp_path / "blobs" / "a").write_bytes(b"a file where a folder is needed")
    with pytest.raises(Unavailable):
        asyncio.run(blobs.put("a/b", b"x"))


def test_store_that_is_there_answers(blobs: Blobs) -> None:
    asyncio.run(blobs.check())


def test_pieces_make_up_the_blob(blobs: Blobs) -> None:
    data = os.urandom(9 * 1024 * 1024)

    async def read() -> list[bytes]:
        await blobs.put("a/b", data)
        return [piece async for piece in blobs.pieces("a/b")]

    pieces = asyncio.run(read())
    assert (len(pieces), b"".join(pieces)) == (2, data)


def test_what_is_kept_is_listed_by_folder_with_size_and_time(blobs: Blobs) -> None:
    async def scenario() -> list[Listed]:
        for key, size_bytes in (("patches/b", 3), ("patches/a", 5), ("other/a", 7)):
            await blobs.put(key, bytes(size_bytes))
        return await blobs.listed("patches")

    before_s = time.time()
    listed = asyncio.run(scenario())
    assert {(one.key, one.size_bytes) for one in listed} == {("patches/b", 3), ("patches/a", 5)}
    assert [one.kept_at_s for one in listed] == sorted(one.kept_at_s for one in listed)
    assert all(before_s - 2.0 < one.kept_at_s < time.time() + 2.0 for one in listed), "S3 tells times by the second"


def test_of_an_empty_folder_nothing_is_listed(blobs: Blobs) -> None:
    assert asyncio.run(blobs.listed("patches")) == []


def test_hundreds_are_listed(blobs: Blobs) -> None:
    async def scenario() -> int:
        await asyncio.gather(*(blobs.put(f"patches/{index}", b"x") for index in range(120)))
        return len(await blobs.listed("patches"))

    assert asyncio.run(scenario()) == 120


def test_what_was_removed_is_gone_and_may_be_removed_again(blobs: Blobs) -> None:
    async def scenario() -> list[int | None]:
        for key in ("patches/a", "patches/b"):
            await blobs.put(key, b"x")
        for _ in range(2):
            await blobs.remove(["patches/a", "patches/never"])
        return [await blobs.size_bytes("patches/a"), await blobs.size_bytes("patches/b")]

    assert asyncio.run(scenario()) == [None, 1]


def test_what_a_crash_left_half_written_is_not_listed(tmp_path: Path) -> None:
    blobs = folder_blobs(tmp_path / "blobs")
    asyncio.run(blobs.put("a/b", b"x"))
    (tmp_path / "blobs" / "a" / "b#123456789").write_bytes(b"half")
    assert [one.key for one in asyncio.run(blobs.listed("a"))] == ["a/b"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    blobs = folder_blobs(tmp_path / "blobs")
    asyncio.run(blobs.put("a/b", b"x"))
    names = ["b#7", "b#123456789", "#12", "b#", "b#x1", "b#1.sealed"]
    for name in names:
        (tmp_path / "blobs" / "a" / name).write_bytes(b"half")
    assert blobs.sweep() == 2
    left = {path.name for path in (tmp_path / "blobs" / "a").iterdir()}
    assert left == {"b", *names[2:]}
    assert memory_blobs().sweep() == 0


# ---- a folder on a disk whose power is cut

_KEY = "samples/ab/abcd"
_KEPT = b"pixels of an acknowledged sample" * 50


@pytest.fixture
def disk() -> Iterator[Disk]:
    if why := why_not():
        pytest.skip(why)
    with Disk(size_mib=64) as made:
        yield made


def _after_the_cut(disk: Disk) -> bytes | None:
    disk.unmount()
    disk.mount()
    path = disk.path / "blobs" / _KEY
    return path.read_bytes() if path.is_file() else None


def test_acknowledged_blob_survives_a_power_cut(disk: Disk) -> None:
    asyncio.run(folder_blobs(disk.path / "blobs").put(_KEY, _KEPT))
    disk.cut()
    assert _after_the_cut(disk) == _KEPT


def test_control_without_fsync_it_does_not(disk: Disk) -> None:
    obstore.put(LocalStore(disk.path / "blobs", mkdir=True), _KEY, _KEPT)
    disk.cut()
    assert _after_the_cut(disk) != _KEPT


@pytest.mark.parametrize("again", [_KEPT, _KEPT[::-1]], ids=["the same", "sealed anew"])
def test_repeat_that_a_power_cut_ends_takes_nothing_away(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, again: bytes
) -> None:
    """The device did not hear the answer and sends its batch again; the cut comes before the first fsync is through."""
    blobs = folder_blobs(disk.path / "blobs")
    asyncio.run(blobs.put(_KEY, _KEPT))
    honest = os.fsync

    def cut(_: int) -> None:
        with (disk.path / "neighbour").open("wb") as file:  # any other program's fsync settles every rename so far
            file.write(b"x")
            file.flush()
            honest(file.fileno())
        disk.cut()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", cut)
    with pytest.raises(Unavailable, match="cannot keep blob"):
        asyncio.run(blobs.put(_KEY, again))
    monkeypatch.undo()
    assert _after_the_cut(disk) == _KEPT


# ---- a bucket


def test_large_blob_goes_up_in_parts(s3: S3Server, bucket: str) -> None:
    asyncio.run(bucket_blobs(bucket).put("a/b", bytes(20 * 1024 * 1024)))
    listing = s3.keys(bucket)
    assert "<Key>blobs/a/b</Key>" in listing
    assert "-3&quot;" in listing or '-3"' in listing  # the ETag says of how many parts it was made


def test_bucket_outlives_the_process_that_filled_it(bucket: str) -> None:
    asyncio.run(bucket_blobs(bucket).put("a/b", b"x"))
    assert asyncio.run(bucket_blobs(bucket).get("a/b")) == b"x"


def test_prefixes_of_a_bucket_are_apart(bucket: str) -> None:
    asyncio.run(bucket_blobs(bucket).put("a/b", b"x"))
    assert asyncio.run(bucket_blobs(bucket + "-2").size_bytes("a/b")) is None


def test_bucket_that_is_not_there_is_unavailable(bucket: str) -> None:
    with pytest.raises(Unavailable, match=r"(?s)does not exist.*Make the bucket"):
        asyncio.run(bucket_blobs("s3://no-such-bucket/blobs").check())


def test_server_that_is_away_is_unavailable(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    blobs = bucket_blobs(bucket)
    for call in (
        blobs.check(),
        blobs.put("a/b", b"x"),
        blobs.get("a/b"),
        blobs.size_bytes("a/b"),
        blobs.listed("a"),
        blobs.remove(["a/b"]),
    ):
        with pytest.raises(Unavailable) as told:
            asyncio.run(call)
        assert len(str(told.value)) < 700


@pytest.mark.parametrize("url", ["fleet", "http://bucket/x", "s3://", "s3:///x", "gs://bucket"])
def test_place_that_is_none_is_invalid_input(url: str) -> None:
    with pytest.raises(InvalidInput, match="s3://BUCKET"):
        bucket_blobs(url)


def test_endpoint_without_tls_is_turned_down_beyond_loopback(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://s3.example:9000")
    with pytest.raises(InvalidInput, match="https"):
        bucket_blobs(bucket)
