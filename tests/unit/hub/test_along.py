import asyncio

import pytest

from builders import make_parts
from edgeloop.bundle.archive import digest
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, NotFound
from edgeloop.contracts.messages import Assignment
from edgeloop.contracts.names import file_target, manifest_target
from edgeloop.hub import along
from edgeloop.hub.along import SmallFiles, small_targets

pytestmark = pytest.mark.anyio

PARTS = make_parts()
MANIFEST = to_json(PARTS.manifest)
SHARED = [*dict.fromkeys(PARTS.manifest.shared_files)]
SIZES = [len(PARTS.files[sha256]) for sha256 in SHARED]


def test_what_every_device_needs_comes_along_and_no_variant_does() -> None:
    found = small_targets(MANIFEST, most_bytes=10**9)
    assert found == tuple(map(file_target, SHARED))
    assert not {file_target(variant.file) for variant in PARTS.manifest.variants} & set(found)


def test_manifest_and_files_share_the_room() -> None:
    exactly = len(MANIFEST) + sum(SIZES)
    assert len(small_targets(MANIFEST, most_bytes=exactly)) == len(SHARED)
    assert len(small_targets(MANIFEST, most_bytes=exactly - 1)) == len(SHARED) - 1


@pytest.mark.parametrize("most_bytes", [0, len(MANIFEST)])
def test_without_room_nothing_comes_along(most_bytes: int) -> None:
    assert small_targets(MANIFEST, most_bytes=most_bytes) == ()


def test_what_is_no_manifest_is_said_to_be_none() -> None:
    with pytest.raises(Corrupt):
        small_targets(b"{", most_bytes=1000)


# ---- read once for all


class Files:
    """What could be fetched, and what was read of it."""

    def __init__(self) -> None:
        manifest = {f"targets/{manifest_target(PARTS.manifest.ref)}": MANIFEST}
        self.at = manifest | {f"targets/{file_target(sha256)}": PARTS.files[sha256] for sha256 in SHARED}
        self.read_paths: list[str] = []

    async def read(self, path: str) -> bytes:
        """See SmallFiles."""
        self.read_paths.append(path)
        if path not in self.at:
            raise NotFound(path)
        return self.at[path]


def _assigned(sha256: str = digest(MANIFEST)) -> Assignment:
    return Assignment(generation=1, rollout_id="r", bundle=str(PARTS.manifest.ref), manifest_sha256=sha256)


async def test_hundred_who_ask_at_once_cost_one_reading() -> None:
    files = Files()
    small = SmallFiles(files.read)
    answers = await asyncio.gather(*(small.of([_assigned()], most_bytes=10**6) for _ in range(100)))
    assert all(answer == files.at for answer in answers)
    assert len(files.read_paths) == len(files.at)


async def test_nobody_who_wants_nothing_is_read_for() -> None:
    files = Files()
    assert await SmallFiles(files.read).of([_assigned()], most_bytes=0) == {}
    assert files.read_paths == []


async def test_bundle_that_has_no_room_is_left_out() -> None:
    assert await SmallFiles(Files().read).of([_assigned()], most_bytes=len(MANIFEST)) == {}


async def test_manifest_that_is_not_the_one_assigned_does_not_come_along() -> None:
    assert await SmallFiles(Files().read).of([_assigned("0" * 64)], most_bytes=10**6) == {}


async def test_what_cannot_be_read_comes_along_once_it_can() -> None:
    files = Files()
    there, files.at = files.at, {}
    small = SmallFiles(files.read)
    assert await small.of([_assigned()], most_bytes=10**6) == {}
    files.at = there
    assert await small.of([_assigned()], most_bytes=10**6) == there


async def test_nobody_waits_for_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(along, "_WITHIN_S", 0.1)
    begun = 0

    async def never(_path: str) -> bytes:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()
        raise AssertionError

    files = SmallFiles(never)
    asked = [files.of([_assigned()], most_bytes=1000) for _ in range(20)]
    assert await asyncio.gather(*asked) == [{}] * 20
    assert begun < 10  # those behind the first gave up with it
