"""Patches in place of files, on real sockets, from hubs that mean well and hubs that do not."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from builders import Parts, make_parts
from edgeloop.bundle.archive import digest
from edgeloop.bundle.patch import pack_block, pack_head, windows
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import EdgeloopError, Unavailable
from edgeloop.contracts.messages import ErrorReply, PatchOffer
from edgeloop.contracts.names import NOTHING, PatchName, file_target, manifest_target
from edgeloop.contracts.states import Kind
from edgeloop.device.metered import MeteredSupply
from edgeloop.device.patched import PatchedSupply
from edgeloop.device.supply import HubSupply
from edgeloop.transport.budget import DOWNLOAD, Budget
from edgeloop.transport.identity import Identity
from edgeloop.transport.keep import Keep
from edgeloop.transport.membership import Membership
from edgeloop.transport.uplink import Patience, Uplink
from hostile_link import Answer, Drip, HostileLink, Reply, Request, Reset, plainly
from small_disk import small_disk

SIZE_BYTES = 1024 * 1024
OLD_MODEL = random.Random(1).randbytes(SIZE_BYTES)
NEW_MODEL = OLD_MODEL[:-200_000] + random.Random(2).randbytes(200_000)
OLD, NEW = digest(OLD_MODEL), digest(NEW_MODEL)
WHOLE = f"targets/files/{NEW}"


def _patch(want: bytes, base: bytes) -> bytes:
    blocks = (
        pack_block(
            want[one.start : one.stop], base[one.base_start : one.base_stop], one, grown_bytes=len(want) - len(base)
        )
        for one in windows(len(want), len(base))
    )
    return pack_head(len(want), len(base)) + b"".join(blocks)


PATCH = _patch(NEW_MODEL, OLD_MODEL)
BY_PATCH = f"targets/files/{digest(PATCH)}"
OFFER = PatchName(NEW, OLD).offer_path
assert 200_000 < len(PATCH) < 201_000


@dataclass
class Hub:
    """A hub's files by path, with ranges; what is not there is not found. busy: how often still it cannot, by path."""

    files: dict[str, bytes]
    busy: dict[str, int] = field(default_factory=dict)

    def offer(self, name: PatchName, patch: bytes) -> None:
        """Offer a patch, and have it."""
        self.files[name.offer_path] = to_json(PatchOffer(sha256=digest(patch), size_bytes=len(patch)))
        self.files[f"targets/files/{digest(patch)}"] = patch

    @property
    def answer(self) -> Answer:
        """As a link takes it."""

        async def answer(request: Request) -> Reply:
            if self.busy.get(request.path, 0):
                self.busy[request.path] -= 1
                return Reply(503, {}, to_json(ErrorReply(code="unavailable", message="on its way to this node")))
            content = self.files.get(request.path)
            if content is None:
                return Reply(404, {}, to_json(ErrorReply(code="not_found", message=f"no {request.path}")))
            wanted = request.headers.get("range")
            if wanted is None:
                return Reply(200, {}, content)
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            return Reply(206, {"content-range": f"bytes {start}-{len(content) - 1}/{len(content)}"}, content[start:])

        return answer


class Unsigned(HubSupply):
    """The device's own supply, which takes everything for signed: signatures are tested elsewhere."""

    async def check(self, target: str, sha256: str) -> int:
        return SIZE_BYTES


@pytest.fixture
def hub() -> Hub:
    made = Hub({WHOLE: NEW_MODEL})
    made.offer(PatchName(NEW, OLD), PATCH)
    return made


@pytest.fixture
def link(hub: Hub) -> Iterator[HostileLink]:
    with HostileLink(hub.answer) as made:
        yield made


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """1.0.0 is here, and the manifest of 1.1.0."""
    return _filled(Shelf(tmp_path / "bundles"))


def _filled(shelf: Shelf, old: bytes = OLD_MODEL, new: bytes = NEW_MODEL) -> Shelf:
    first, second = make_parts().with_model(old), make_parts(version="1.1.0").with_model(new)
    for sha256, data in first.files.items():
        shelf.put(sha256, data)
    shelf.put_manifest(to_json(first.manifest))
    shelf.put(digest(_manifest(second)), _manifest(second))
    return shelf


def _manifest(parts: Parts) -> bytes:
    return to_json(parts.manifest)


SECOND = _manifest(make_parts(version="1.1.0").with_model(NEW_MODEL))


class Device:
    """A device's supply in one process after the other. budget: of how many bytes a day."""

    def __init__(self, link: HostileLink, shelf: Shelf, *, patience: Patience | None = None) -> None:
        self.link, self.shelf, self.patience = link, shelf, patience

    def fetch(self, *, tries: int = 1, sha256: str = NEW, size_bytes: int = SIZE_BYTES, second: bytes = SECOND) -> None:
        """In a new process, as the agent does: again after a failure."""
        asyncio.run(self._fetch(tries, sha256, size_bytes, second))

    async def _fetch(self, tries: int, sha256: str, size_bytes: int, second: bytes) -> None:
        member = Membership(
            device_id="cam", kind=Kind.DEVICE, hub_url=self.link.url, images_root=b"", director_root=b""
        )
        identity = Identity("cam", Ed25519PrivateKey.from_private_bytes(b"k" * 32))
        async with httpx.AsyncClient(base_url=self.link.url) as client:
            uplink = Uplink(client, identity, patience=self.patience)
            supply = PatchedSupply(Unsigned(uplink, member, self.shelf.folder), uplink)
            await supply.check(manifest_target(make_parts(version="1.1.0").manifest.ref), digest(second))
            for attempt in range(1, tries + 1):
                try:
                    await supply.fetch(file_target(sha256), self.shelf, sha256, size_bytes)
                except EdgeloopError:
                    if attempt == tries:
                        raise
                else:
                    return


def _patches(shelf: Shelf) -> Shelf:
    """Where a device keeps a patch while it comes in."""
    return Shelf(shelf.folder / "patches")


def _is_there(shelf: Shelf) -> bool:
    """The model is, and nothing that led to it."""
    left = [*_patches(shelf).folder.glob("files/*"), *shelf.folder.glob("files/*.part")]
    return shelf.read(NEW) == NEW_MODEL and not left


# ---- what is offered is used


def test_patch_comes_in_place_of_the_file(link: HostileLink, shelf: Shelf) -> None:
    Device(link, shelf).fetch()
    assert _is_there(shelf)
    assert link.sent_bytes[WHOLE] == 0
    assert link.sent_bytes.total() < len(PATCH) + 200


@pytest.mark.parametrize("answer", [b"", b"<html>404</html>"])
def test_hub_or_proxy_that_knows_no_patches_gives_the_file(shelf: Shelf, answer: bytes) -> None:
    async def old_hub(request: Request) -> Reply:
        return Reply(200, {}, NEW_MODEL) if request.path == WHOLE else Reply(404, {}, answer)

    with HostileLink(old_hub) as link:
        Device(link, shelf).fetch()
        assert _is_there(shelf)
        assert link.sent_bytes[WHOLE] == SIZE_BYTES


def test_small_file_is_not_worth_a_question(link: HostileLink, hub: Hub, shelf: Shelf) -> None:
    small = b"x" * 2000
    hub.files[f"targets/files/{digest(small)}"] = small
    Device(link, shelf).fetch(sha256=digest(small), size_bytes=len(small))
    assert shelf.read(digest(small)) == small
    assert set(link.asked) == {f"targets/files/{digest(small)}"}


def test_without_anything_like_it_the_file_comes_packed(link: HostileLink, hub: Hub, tmp_path: Path) -> None:
    golden = b"golden " * 10_000
    sha256 = digest(golden)
    hub.offer(PatchName(sha256, NOTHING), _patch(golden, b""))
    shelf = Shelf(tmp_path / "empty")
    Device(link, shelf).fetch(sha256=sha256, size_bytes=len(golden))
    assert shelf.read(sha256) == golden
    assert link.sent_bytes.total() < 0.05 * len(golden)


def test_manifest_comes_as_a_patch_to_the_one_before(link: HostileLink, hub: Hub, shelf: Shelf) -> None:
    first = _manifest(make_parts().with_model(OLD_MODEL))
    hub.offer(PatchName(digest(SECOND), digest(first)), _patch(SECOND, first))
    shelf.remove(digest(SECOND))

    async def fetch() -> None:
        identity = Identity("cam", Ed25519PrivateKey.from_private_bytes(b"k" * 32))
        member = Membership(device_id="cam", kind=Kind.DEVICE, hub_url=link.url, images_root=b"", director_root=b"")
        async with httpx.AsyncClient(base_url=link.url) as client:
            uplink = Uplink(client, identity)
            target = manifest_target(make_parts(version="1.1.0").manifest.ref)
            supply = PatchedSupply(Unsigned(uplink, member, shelf.folder), uplink)
            await supply.fetch(target, shelf, digest(SECOND), len(SECOND))

    asyncio.run(fetch())
    assert shelf.read(digest(SECOND)) == SECOND
    assert link.sent_bytes.total() < 0.5 * len(SECOND)


# ---- cuts and kills


def test_patch_goes_on_after_every_cut(link: HostileLink, shelf: Shelf) -> None:
    link.send = sending = Reset(share=0.06)
    Device(link, shelf).fetch(tries=10)
    assert _is_there(shelf)
    assert sending.resets > 0, "the link was bad"
    assert (link.sent_bytes[WHOLE], link.sent_bytes[BY_PATCH]) == (0, len(PATCH))


def test_patch_goes_on_where_an_earlier_process_ended(link: HostileLink, shelf: Shelf) -> None:
    _patches(shelf).append_part(digest(PATCH), PATCH[:-5000])
    Device(link, shelf).fetch()
    assert _is_there(shelf)
    assert (link.sent_bytes[WHOLE], link.sent_bytes[BY_PATCH]) == (0, 5000)


def test_kill_while_a_patch_is_applied_costs_no_byte(link: HostileLink, shelf: Shelf) -> None:
    _patches(shelf).put(digest(PATCH), PATCH)
    shelf.append_part(NEW, NEW_MODEL[:300_000])
    Device(link, shelf).fetch()
    assert _is_there(shelf)
    assert (link.sent_bytes[WHOLE], link.sent_bytes[BY_PATCH]) == (0, 0)


def test_file_of_which_less_is_to_come_than_of_the_patch_is_taken_up(link: HostileLink, shelf: Shelf) -> None:
    shelf.append_part(NEW, NEW_MODEL[:-5000])
    Device(link, shelf).fetch()
    assert _is_there(shelf)
    assert (link.sent_bytes[WHOLE], link.sent_bytes[BY_PATCH]) == (5000, 0)


def test_drip_is_given_up_and_what_came_of_the_patch_is_kept(link: HostileLink, shelf: Shelf) -> None:
    link.send = Drip(every_s=0.01)
    with pytest.raises(Unavailable, match=r"drips|did not begin"):
        Device(link, shelf, patience=Patience(window_s=0.2, least_bytes=2_000)).fetch()
    link.send = plainly
    Device(link, shelf).fetch()
    assert _is_there(shelf)


def test_patch_that_a_node_does_not_have_yet_is_waited_for(link: HostileLink, hub: Hub, shelf: Shelf) -> None:
    hub.busy[BY_PATCH] = 12  # several to a try
    Device(link, shelf).fetch(tries=5)
    assert _is_there(shelf)
    assert link.sent_bytes[WHOLE] == 0


def test_what_came_of_another_patch_makes_room(link: HostileLink, shelf: Shelf) -> None:
    _patches(shelf).append_part("0" * 64, b"of an offer that is no more")
    _patches(shelf).put(digest(b"another"), b"another")
    Device(link, shelf).fetch()
    assert _is_there(shelf)


# ---- patches that fail cost the file, and no more than themselves


def test_patch_that_never_comes_is_not_waited_for_forever(link: HostileLink, hub: Hub, shelf: Shelf) -> None:
    hub.busy[BY_PATCH] = 10_000
    Device(link, shelf).fetch(tries=5)
    assert shelf.read(NEW) == NEW_MODEL
    assert link.sent_bytes[WHOLE] == SIZE_BYTES


def test_other_bytes_than_were_offered(link: HostileLink, shelf: Shelf) -> None:
    link.tamper = lambda path, data: bytes(len(data)) if path == BY_PATCH else data
    Device(link, shelf).fetch()
    assert _is_there(shelf)
    assert (link.sent_bytes[WHOLE], link.sent_bytes[BY_PATCH]) == (SIZE_BYTES, 2 * len(PATCH))


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param(_patch(OLD_MODEL[:-1] + b"x", OLD_MODEL), id="makes something else"),
        pytest.param(PATCH[:-1], id="ends early"),
        pytest.param(b"no patch " * 1000, id="no patch"),
        pytest.param(_patch(NEW_MODEL[:-1], OLD_MODEL), id="of another size"),
        pytest.param(_patch(NEW_MODEL, OLD_MODEL[:-1]), id="for another base"),
    ],
)
def test_patch_that_is_none(link: HostileLink, hub: Hub, shelf: Shelf, patch: bytes) -> None:
    hub.offer(PatchName(NEW, OLD), patch)
    device = Device(link, shelf)
    device.fetch()
    assert _is_there(shelf)
    assert link.sent_bytes[f"targets/files/{digest(patch)}"] == len(patch)
    assert link.sent_bytes[WHOLE] == SIZE_BYTES


def test_failed_patch_is_not_fetched_again_when_the_file_breaks_off(link: HostileLink, hub: Hub, shelf: Shelf) -> None:
    wrong = _patch(OLD_MODEL[:-1] + b"x", OLD_MODEL)
    hub.offer(PatchName(NEW, OLD), wrong)
    hub.busy[WHOLE] = 10
    Device(link, shelf).fetch(tries=6)
    assert _is_there(shelf)
    assert link.sent_bytes[f"targets/files/{digest(wrong)}"] == len(wrong)


def test_damaged_old_file(link: HostileLink, shelf: Shelf) -> None:
    (shelf.folder / "files" / OLD).write_bytes(bytes(SIZE_BYTES))
    Device(link, shelf).fetch()
    assert _is_there(shelf)
    assert link.sent_bytes[WHOLE] == SIZE_BYTES


def test_patch_that_is_offered_and_not_there(link: HostileLink, hub: Hub, shelf: Shelf) -> None:
    del hub.files[BY_PATCH]
    Device(link, shelf).fetch()
    assert _is_there(shelf)


@pytest.mark.parametrize(
    "offer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{" * 100, id="no JSON"),
        pytest.param(b"x" * 100_000, id="without an end"),
        pytest.param(b'{"sha256": "../../etc/passwd", "size_bytes": 5}', id="a path"),
        pytest.param(to_json(PatchOffer(sha256=OLD, size_bytes=SIZE_BYTES - 10)), id="hardly smaller"),
        pytest.param(to_json(PatchOffer(sha256=OLD, size_bytes=2**40)), id="larger"),
        pytest.param(b'{"sha256": "%s", "size_bytes": -5}' % OLD.encode(), id="less than nothing"),
    ],
)
def test_offer_that_is_none(link: HostileLink, hub: Hub, shelf: Shelf, offer: bytes) -> None:
    hub.files[OFFER] = offer
    Device(link, shelf).fetch()
    assert _is_there(shelf)
    assert (link.sent_bytes[BY_PATCH], shelf.read(OLD)) == (0, OLD_MODEL)


def test_offer_cannot_name_a_file_that_is_in_use(link: HostileLink, hub: Hub, shelf: Shelf) -> None:
    hub.files[OFFER] = to_json(PatchOffer(sha256=OLD, size_bytes=5_000))
    Device(link, shelf).fetch()
    assert _is_there(shelf)
    assert shelf.read(OLD) == OLD_MODEL


# ---- room and the day's bytes


def test_where_file_and_patch_do_not_fit_the_file_alone_comes(hub: Hub, tmp_path: Path) -> None:
    want = random.Random(5).randbytes(2 * SIZE_BYTES) + bytes(2 * SIZE_BYTES)
    hub.files[f"targets/files/{digest(want)}"] = want
    patch = _patch(want, b"")
    hub.offer(PatchName(digest(want), NOTHING), patch)
    with small_disk(tmp_path / "disk") as disk, HostileLink(hub.answer) as link:
        shelf = Shelf(disk / "bundles")
        Device(link, shelf).fetch(sha256=digest(want), size_bytes=len(want))
        assert shelf.read(digest(want)) == want
        assert link.sent_bytes[f"targets/files/{digest(patch)}"] == 0


def test_patch_needs_no_more_of_a_day_than_its_own_bytes(link: HostileLink, shelf: Shelf, tmp_path: Path) -> None:
    async def fetch() -> Budget:
        keep = Keep(tmp_path / "device.db")
        budget = Budget(keep, limit_bytes=450_000)
        identity = Identity("cam", Ed25519PrivateKey.from_private_bytes(b"k" * 32))
        member = Membership(device_id="cam", kind=Kind.DEVICE, hub_url=link.url, images_root=b"", director_root=b"")
        async with httpx.AsyncClient(base_url=link.url) as client:
            uplink = Uplink(client, identity)
            metered = MeteredSupply(
                Unsigned(uplink, member, shelf.folder), uplink, budget, on_wait=lambda: pytest.fail("it waits")
            )
            supply = PatchedSupply(metered, uplink)
            await supply.check(manifest_target(make_parts(version="1.1.0").manifest.ref), digest(SECOND))
            budget.spend("reading", {"tiny@1.0.0": 226_000})  # less than half a day is left: the file would wait
            await supply.fetch(file_target(NEW), shelf, NEW, SIZE_BYTES)
        keep.close()
        return budget

    budget = asyncio.run(fetch())
    assert _is_there(shelf)
    assert budget.today().spent_bytes(DOWNLOAD) == len(PATCH)
