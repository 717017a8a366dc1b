"""One suite over both implementations of hub.port.Hub: the cloud, and a node above which a real cloud stands. The node
is there twice: one that answers what it can, and one that carries every question up.

The node's uplink signs real requests; they reach the cloud's real routes over a wire in memory, which can be cut.
"""

import asyncio
import io
import math
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import sqlalchemy as sa

from builders import LABELS, make_parts
from edgeloop.bundle.archive import digest
from edgeloop.bundle.patch import apply_patch
from edgeloop.cloud.store import fleet, inbox
from edgeloop.contracts.api import BundleView
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import Corrupt, EdgeloopError, NotFound, Refused, Unavailable
from edgeloop.contracts.messages import (
    MAX_ALONG_BYTES,
    MAX_REPORT_BYTES,
    MAX_WAIT_S,
    Alert,
    Desired,
    DeviceReport,
    EnrolReply,
    Event,
    Health,
    Held,
    InferRequest,
    PatchOffer,
    SendReply,
    SendRequest,
    SyncReply,
    SyncRequest,
    TrustHealth,
    TrustRequest,
    UpdateReport,
    WatchStats,
)
from edgeloop.contracts.names import NOTHING, BundleRef, PatchName, file_target, manifest_target
from edgeloop.contracts.states import Kind, UpdateState
from edgeloop.hub.port import Hub
from edgeloop.hub.waker import Waker
from edgeloop.node.answer import Answering
from edgeloop.node.cache import Cache
from edgeloop.node.hub import NodeHub
from edgeloop.node.signed import SignedModels
from edgeloop.transport.budget import Budget
from edgeloop.transport.identity import Identity
from edgeloop.transport.keep import Keep
from edgeloop.transport.membership import Membership
from edgeloop.transport.metering import Meter
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.packed import version_of
from edgeloop.transport.sender import Sender
from edgeloop.transport.syncing import Pace, SyncLoop
from edgeloop.transport.uplink import Uplink
from house import Wire
from small_cloud import (
    PROFILE,
    SmallCloud,
    enrol_request,
    event,
    key_of,
    picture,
    public_key_of,
    reading,
    report,
    sample,
    until,
)

pytestmark = pytest.mark.anyio

NODE = "gateway"
CAMERA = "camera-1"
STRANGER = "camera-9"


@dataclass
class Node:
    """A node at work: its hub, and its loops towards the cloud."""

    hub: NodeHub
    wire: Wire
    waker: Waker
    keep: Keep
    outbox: Outbox
    cache: Cache
    answering: Answering
    client: httpx.AsyncClient
    tasks: "list[asyncio.Task[None]]" = field(default_factory=list)

    async def stop(self) -> None:
        """End the loops and close the files."""
        self.waker.release()
        for task in self.tasks:
            task.cancel()
        for task in self.tasks:
            with suppress(asyncio.CancelledError):
                await task
        await self.answering.close()
        await self.hub.close()
        await self.cache.close()
        await self.client.aclose()
        self.outbox.close()
        self.keep.close()


@dataclass
class Hop:
    """A hub under test, the cloud behind it, and the wire between them when there is one."""

    hub: Hub
    cloud: SmallCloud
    node: Node | None = None

    async def enrol(self, name: str = CAMERA) -> EnrolReply:
        """Enrol a device through the hub with a good token."""
        return await self.hub.enrol(enrol_request(name, self.cloud.join_secret()))

    async def sync(self, name: str = CAMERA, known: int = 0, *, wait_s: float = 0.0) -> SyncReply:
        """One device's sync."""
        return await self.hub.sync(name, SyncRequest(reports=(report(name, known),), wait_s=wait_s))

    async def read(self, path: str, *, by: str = CAMERA) -> bytes:
        """A fetched file whole."""
        served = await self.hub.fetch(by, path)
        return await served.read(0, served.size_bytes)


async def start_node(cloud: SmallCloud, folder: Path, *, answers: bool = True) -> Node:
    """Enrol a node with the cloud, and put it to work on its state folder."""
    cloud.clock.now_s = time.time()  # by which python-tuf judges what has expired
    wire = Wire(cloud.app)
    client = httpx.AsyncClient(transport=wire, base_url="http://cloud.test")
    uplink = Uplink(client, Identity(NODE, key_of(NODE)))
    reply = await uplink.enrol(enrol_request(NODE, cloud.join_secret(), kind=Kind.NODE))
    member = Membership(
        device_id=NODE,
        kind=Kind.NODE,
        hub_url="http://cloud.test",
        images_root=reply.images_root,
        director_root=reply.director_root,
    )
    keep, outbox, waker = Keep(folder / "node.db"), Outbox(folder / "outbox.db", NODE), Waker()
    budget = Budget(keep)
    meter = Meter(budget, on_wait=lambda: None)
    cache = Cache(folder / "cache", uplink, meter)
    answering = Answering(uplink, SignedModels(cache, member, folder / "trust") if answers else None)
    hub = NodeHub(
        uplink,
        keep=keep,
        cache=cache,
        outbox=outbox,
        answering=answering,
        waker=waker,
        budget=budget,
        meter=meter,
    )
    hub.sync_loop = SyncLoop(
        uplink,
        reports=hub.reports,
        known=hub.known,
        on_desired=hub.on_desired,
        on_failed=hub.on_sync_failed,
        pace=Pace(MAX_WAIT_S, 0.05),
    )
    sender = Sender(outbox, uplink, every_s=0.01, longest_wait_s=0.05)
    tasks = [asyncio.create_task(hub.sync_loop.run()), asyncio.create_task(sender.run())]
    return Node(hub, wire, waker, keep, outbox, cache, answering, client, tasks)


@pytest.fixture(params=["cloud", "node", "carrying node"])
async def hop(request: pytest.FixtureRequest, cloud: SmallCloud, tmp_path: Path) -> AsyncIterator[Hop]:
    if request.param == "cloud":
        yield Hop(cloud.hub, cloud)
        return
    node = await start_node(cloud, tmp_path / "node", answers=request.param == "node")
    yield Hop(node.hub, cloud, node)
    cloud.waker.release()
    await node.stop()


@pytest.fixture
async def behind_node(cloud: SmallCloud, tmp_path: Path) -> AsyncIterator[tuple[Hop, Node]]:
    node = await start_node(cloud, tmp_path / "node")
    yield Hop(node.hub, cloud, node), node
    cloud.waker.release()
    await node.stop()


async def _seen_by_cloud(hop: Hop, name: str) -> None:
    """Wait until a device's report has come up to the cloud."""

    async def seen() -> bool:
        views = {view.device_id: view for view in await hop.cloud.database.read(fleet.list_devices)}
        return views[name].last_seen_s is not None

    await until(seen, f"a report of {name}")


async def _desired_at(hop: Hop, name: str, generation: int, *, known: int = 0) -> None:
    """Wait until the hub knows of a generation."""

    async def known_here() -> bool:
        reply = await hop.sync(name, known)
        return reply.desired == (Desired(device_id=name, generation=generation),)

    await until(known_here, f"generation {generation} of {name}")


# ---- enrol


async def test_good_token_admits_a_device(hop: Hop) -> None:
    reply = await hop.enrol()
    assert reply.device_id == CAMERA


async def test_enrolment_brings_the_clouds_roots_of_trust(hop: Hop) -> None:
    reply = await hop.enrol()
    assert (reply.images_root, reply.director_root) == hop.cloud.roots.newest()


async def test_admitted_device_is_in_the_clouds_fleet(hop: Hop) -> None:
    await hop.enrol()
    views = await hop.cloud.database.read(fleet.list_devices)
    (view,) = [view for view in views if view.device_id == CAMERA]
    assert view.via == (NODE if hop.node else None)


async def test_labels_of_the_token_become_the_devices(hop: Hop) -> None:
    await hop.hub.enrol(enrol_request(CAMERA, hop.cloud.join_secret(labels={"site": "hall"})))
    views = await hop.cloud.database.read(fleet.list_devices)
    assert {view.device_id: view.labels for view in views}[CAMERA] == {"site": "hall"}


async def test_token_that_was_never_made_is_refused(hop: Hop) -> None:
    with pytest.raises(Refused, match="never made"):
        await hop.hub.enrol(enrol_request(CAMERA, "s" * 43))


async def test_token_that_is_used_up_is_refused(hop: Hop) -> None:
    secret = hop.cloud.join_secret(uses=1)
    await hop.hub.enrol(enrol_request(CAMERA, secret))
    with pytest.raises(Refused, match="used up"):
        await hop.hub.enrol(enrol_request("camera-2", secret))


async def test_token_for_two_admits_two(hop: Hop) -> None:
    secret = hop.cloud.join_secret(uses=2)
    await hop.hub.enrol(enrol_request(CAMERA, secret))
    assert (await hop.hub.enrol(enrol_request("camera-2", secret))).device_id == "camera-2"


async def test_expired_token_is_refused(hop: Hop) -> None:
    secret = hop.cloud.join_secret(valid_s=60.0)
    hop.cloud.clock.now_s += 61.0
    with pytest.raises(Refused, match="expired"):
        await hop.hub.enrol(enrol_request(CAMERA, secret))


async def test_refused_device_is_not_known(hop: Hop) -> None:
    with pytest.raises(Refused):
        await hop.hub.enrol(enrol_request(CAMERA, "s" * 43))
    assert await hop.hub.public_key(CAMERA) is None


async def test_id_that_is_taken_by_another_key_is_refused(hop: Hop) -> None:
    await hop.enrol()
    with pytest.raises(Refused, match="another key"):
        await hop.hub.enrol(enrol_request(CAMERA, hop.cloud.join_secret(), key_number=1))


async def test_refused_other_key_does_not_replace_the_first(hop: Hop) -> None:
    await hop.enrol()
    with pytest.raises(Refused):
        await hop.hub.enrol(enrol_request(CAMERA, hop.cloud.join_secret(), key_number=1))
    assert await hop.hub.public_key(CAMERA) == public_key_of(CAMERA)


async def test_repeated_enrolment_with_the_same_key_is_answered_alike(hop: Hop) -> None:
    request = enrol_request(CAMERA, hop.cloud.join_secret(uses=1))
    first = await hop.hub.enrol(request)
    assert await hop.hub.enrol(request) == first


async def test_repeated_enrolment_does_not_use_the_token_again(hop: Hop) -> None:
    secret = hop.cloud.join_secret(uses=2)
    await hop.hub.enrol(enrol_request(CAMERA, secret))
    await hop.hub.enrol(enrol_request(CAMERA, secret))
    assert (await hop.hub.enrol(enrol_request("camera-2", secret))).device_id == "camera-2"


async def test_many_devices_enrol_at_once(hop: Hop) -> None:
    names = [f"camera-{index}" for index in range(20)]
    secret = hop.cloud.join_secret(uses=len(names))
    await asyncio.gather(*(hop.hub.enrol(enrol_request(name, secret)) for name in names))
    assert [await hop.hub.public_key(name) for name in names] == [public_key_of(name) for name in names]


async def test_token_admits_no_more_than_it_says_when_all_come_at_once(hop: Hop) -> None:
    secret = hop.cloud.join_secret(uses=3)
    requests = [hop.hub.enrol(enrol_request(f"camera-{index}", secret)) for index in range(10)]
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(one) for one in outcomes].count(EnrolReply) == 3


# ---- public_key


async def test_key_of_an_enrolled_device_is_known(hop: Hop) -> None:
    await hop.enrol()
    assert await hop.hub.public_key(CAMERA) == public_key_of(CAMERA)


async def test_key_of_a_stranger_is_not_known(hop: Hop) -> None:
    assert await hop.hub.public_key(STRANGER) is None


# ---- sync


async def test_sync_without_news_is_empty(hop: Hop) -> None:
    await hop.enrol()
    assert (await hop.sync()).desired == ()


async def test_sync_that_does_not_wait_is_answered_at_once(hop: Hop) -> None:
    await hop.enrol()
    async with asyncio.timeout(1.0):
        await hop.sync(wait_s=0.0)


async def test_report_comes_up_to_the_cloud(hop: Hop) -> None:
    await hop.enrol()
    said = DeviceReport(device_id=CAMERA, known_generation=0, active="tiny@1.0.0", profile=PROFILE)
    await hop.hub.sync(CAMERA, SyncRequest(reports=(said,)))
    await _seen_by_cloud(hop, CAMERA)
    views = {view.device_id: view for view in await hop.cloud.database.read(fleet.list_devices)}
    told = views[CAMERA].report
    assert told is not None
    assert msgspec.structs.replace(told, age_s=0.0) == said  # a node says how long ago it heard it


async def test_newer_desired_state_is_told_at_once(hop: Hop) -> None:
    await hop.enrol()
    await hop.sync()
    await _seen_by_cloud(hop, CAMERA)
    generation = await hop.cloud.assign(CAMERA)
    await _desired_at(hop, CAMERA, generation)
    async with asyncio.timeout(1.0):
        reply = await hop.sync(known=0, wait_s=30.0)
    assert reply.desired == (Desired(device_id=CAMERA, generation=1),)


async def test_desired_state_that_is_known_already_is_no_news(hop: Hop) -> None:
    await hop.enrol()
    await hop.sync()
    await _seen_by_cloud(hop, CAMERA)
    await _desired_at(hop, CAMERA, await hop.cloud.assign(CAMERA))
    assert (await hop.sync(known=1)).desired == ()


async def test_held_open_sync_is_answered_within_a_second_of_a_new_assignment(hop: Hop) -> None:
    await hop.enrol()
    waiting = asyncio.create_task(hop.sync(wait_s=30.0))
    await _seen_by_cloud(hop, CAMERA)
    await hop.cloud.assign(CAMERA)
    async with asyncio.timeout(1.0):
        reply = await waiting
    assert reply.desired == (Desired(device_id=CAMERA, generation=1),)


async def test_second_assignment_wakes_as_the_first_did(hop: Hop) -> None:
    await hop.enrol()
    waiting = asyncio.create_task(hop.sync(wait_s=30.0))
    await _seen_by_cloud(hop, CAMERA)
    await hop.cloud.assign(CAMERA)
    async with asyncio.timeout(10.0):
        await waiting
    waiting = asyncio.create_task(hop.sync(known=1, wait_s=30.0))
    await hop.cloud.assign(CAMERA)
    async with asyncio.timeout(1.0):
        reply = await waiting
    assert reply.desired == (Desired(device_id=CAMERA, generation=2),)


async def test_assignment_of_another_device_does_not_answer(hop: Hop) -> None:
    await hop.enrol()
    await hop.enrol("camera-2")
    waiting = asyncio.create_task(hop.sync(wait_s=0.3))
    await _seen_by_cloud(hop, CAMERA)
    await hop.cloud.assign("camera-2")
    assert (await waiting).desired == ()


async def test_held_open_sync_ends_empty_after_its_wait(hop: Hop) -> None:
    await hop.enrol()
    before_s = time.monotonic()
    reply = await hop.sync(wait_s=0.2)
    assert reply.desired == ()
    assert 0.2 <= time.monotonic() - before_s < 10.0


async def test_device_may_not_report_for_another(hop: Hop) -> None:
    await hop.enrol()
    await hop.enrol("camera-2")
    with pytest.raises(Refused, match="camera-2"):
        await hop.hub.sync(CAMERA, SyncRequest(reports=(report(CAMERA), report("camera-2"))))


async def test_device_may_not_report_for_a_stranger(hop: Hop) -> None:
    await hop.enrol()
    with pytest.raises(Refused, match=STRANGER):
        await hop.hub.sync(CAMERA, SyncRequest(reports=(report(STRANGER),)))


async def test_refused_report_leaves_no_trace(hop: Hop) -> None:
    await hop.enrol()
    await hop.enrol("camera-2")
    with pytest.raises(Refused):
        await hop.hub.sync(CAMERA, SyncRequest(reports=(report(CAMERA), report("camera-2", active="evil@1.0.0"))))
    await hop.sync()
    await _seen_by_cloud(hop, CAMERA)
    views = {view.device_id: view for view in await hop.cloud.database.read(fleet.list_devices)}
    assert views["camera-2"].report is None


# ---- trust


async def _given(hop: Hop, name: str = CAMERA) -> BundleView:
    """A device that was told to run a published bundle, and a hub that knows of it."""
    await hop.enrol(name)
    await hop.sync(name)
    await _seen_by_cloud(hop, name)
    bundle = await hop.cloud.publish()
    await _desired_at(hop, name, await hop.cloud.assign(name, manifest_sha256=bundle.manifest_sha256))
    return bundle


def _asked(*names: str, along_bytes: int = 0) -> TrustRequest:
    places = {"images": Held(root=1)} | {f"director/{name}": Held(root=1) for name in names}
    return TrustRequest(held=places, along_bytes=along_bytes)


async def test_answer_to_trust_is_what_its_files_are_one_by_one(hop: Hop) -> None:
    await _given(hop)
    said = await hop.hub.trust(CAMERA, _asked(CAMERA))
    assert set(said.whole) == {"images", f"director/{CAMERA}"}
    files = [path.rpartition("/")[2] for path in said.metadata]
    assert sorted(files) == sorted(["timestamp.json", "2.snapshot.json", "2.targets.json"] * 2)
    assert dict(said.metadata) == {path: await hop.read(path) for path in said.metadata}
    assert said.along == {}


async def test_who_holds_all_that_is_signed_is_sent_nothing(hop: Hop) -> None:
    await _given(hop)
    said = await hop.hub.trust(CAMERA, _asked(CAMERA))
    held: dict[str, Held] = dict(_asked(CAMERA).held)
    for path, data in said.metadata.items():
        place, _, file = path.partition("/metadata/")
        held[place] = msgspec.structs.replace(held[place], **{file.split(".")[-2]: version_of(data)})
    again = await hop.hub.trust(CAMERA, TrustRequest(held=held, along_bytes=MAX_ALONG_BYTES))
    assert (set(again.whole), again.metadata, again.along) == (set(held), {}, {})


async def test_words_of_another_device_or_a_stranger_are_left_out(hop: Hop) -> None:
    await hop.enrol("camera-2")
    await _given(hop)
    said = await hop.hub.trust(CAMERA, _asked(CAMERA, "camera-2", STRANGER))
    assert set(said.whole) == {"images", f"director/{CAMERA}"}
    assert {path.split("/")[1] for path in said.metadata if path.startswith("director/")} == {CAMERA}


async def test_manifest_and_small_files_come_along_with_an_assignment(hop: Hop) -> None:
    bundle = await _given(hop)
    said = await hop.hub.trust(CAMERA, _asked(CAMERA, along_bytes=MAX_ALONG_BYTES))
    targets = [manifest_target(BundleRef("tiny", "1.0.0")), *map(file_target, bundle.manifest.shared_files)]
    assert dict(said.along) == {f"targets/{one}": await hop.read(f"targets/{one}") for one in targets}


async def test_what_has_no_room_does_not_come_along(hop: Hop) -> None:
    await _given(hop)
    assert (await hop.hub.trust(CAMERA, _asked(CAMERA, along_bytes=100))).along == {}


async def test_words_that_were_asked_for_once_stand_in_while_the_cloud_is_away(behind_node: tuple[Hop, Node]) -> None:
    hop, node = behind_node
    await _given(hop)
    said = await hop.hub.trust(CAMERA, _asked(CAMERA))
    node.wire.is_cut = True
    assert (await hop.hub.trust(CAMERA, _asked(CAMERA))).metadata == said.metadata


async def test_one_devices_revocation_leaves_a_nodes_other_devices_their_words(cloud: SmallCloud) -> None:
    cloud.enrol(NODE, kind=Kind.NODE)
    cloud.enrol(CAMERA, "camera-2", via=NODE)
    await cloud.publish()
    await cloud.assign("camera-2")
    await cloud.database.write(lambda connection: fleet.revoke(connection, CAMERA, now_s=1.0))
    said = await cloud.hub.trust(NODE, _asked(CAMERA, "camera-2"))
    assert set(said.whole) == {"images", "director/camera-2"}


async def test_roots_of_the_director_come_once_for_all_of_a_nodes_devices(cloud: SmallCloud) -> None:
    cloud.enrol(NODE, kind=Kind.NODE)
    cloud.enrol(CAMERA, "camera-2", via=NODE)
    asked = TrustRequest(held={f"director/{name}": Held() for name in (CAMERA, "camera-2")})
    said = await cloud.hub.trust(NODE, asked)
    assert len(said.whole) == 2
    assert [path for path in said.metadata if path.endswith("1.root.json")] == [
        f"director/{CAMERA}/metadata/1.root.json"
    ]


# ---- fetch


async def test_published_file_is_served(hop: Hop) -> None:
    await hop.enrol()
    await hop.cloud.publish()
    (sha256, data), *_ = make_parts().files.items()
    assert await hop.read(f"targets/{file_target(sha256)}") == data


async def test_part_of_a_file_is_read(hop: Hop) -> None:
    await hop.enrol()
    await hop.cloud.publish()
    (sha256, data), *_ = make_parts().files.items()
    served = await hop.hub.fetch(CAMERA, f"targets/{file_target(sha256)}")
    assert (await served.read(3, 11), served.size_bytes) == (data[3:11], len(data))


async def test_file_by_hash_may_be_kept_for_good(hop: Hop) -> None:
    await hop.enrol()
    await hop.cloud.publish()
    served = await hop.hub.fetch(CAMERA, f"targets/{file_target(next(iter(make_parts().files)))}")
    assert served.immutable


async def test_manifest_is_served_as_it_was_signed(hop: Hop) -> None:
    await hop.enrol()
    await hop.cloud.publish()
    data = await hop.read(f"targets/{manifest_target(BundleRef('tiny', '1.0.0'))}")
    assert data == to_json(make_parts().manifest)


@pytest.mark.parametrize(
    ("file", "immutable"),
    [("timestamp.json", False), ("1.snapshot.json", True), ("1.targets.json", True), ("1.root.json", True)],
)
@pytest.mark.parametrize("repository", ["images", f"director/{CAMERA}"])
async def test_metadata_is_served(hop: Hop, repository: str, file: str, immutable: bool) -> None:
    await hop.enrol()
    served = await hop.hub.fetch(CAMERA, f"{repository}/metadata/{file}")
    role = file.removesuffix(".json").rpartition(".")[2]
    assert served.immutable is immutable
    assert f'"_type":"{role}"'.encode() in await served.read(0, served.size_bytes)


async def test_timestamp_follows_a_publication(hop: Hop) -> None:
    await hop.enrol()
    before = await hop.read("images/metadata/timestamp.json")
    await hop.cloud.publish()
    assert await hop.read("images/metadata/timestamp.json") != before


@pytest.mark.parametrize(
    "path",
    [
        f"targets/files/{'0' * 64}",
        "targets/bundles/tiny/9.9.9/manifest.json",
        "images/metadata/2.root.json",
        "images/metadata/7.targets.json",
        "images/metadata/evil.json",
        f"director/{CAMERA}/metadata/9.targets.json",
        "nothing/here",
        "timestamp.json",
        "",
    ],
)
async def test_file_that_is_not_there_is_not_found(hop: Hop, path: str) -> None:
    await hop.enrol()
    with pytest.raises(NotFound):
        await hop.hub.fetch(CAMERA, path)


@pytest.mark.parametrize(
    "path",
    [
        "../cloud.db",
        "targets/../../keys/targets.pem",
        "targets/files/../../online/images.pem",
        f"targets/files/{'a' * 62}/..",
        "targets/files//etc/passwd",
        "/etc/passwd",
        "images/metadata/../../../cloud.db",
        "images/metadata/..%2f..%2fcloud.db",
        "targets/bundles/../1.0.0/manifest.json",
        "targets/files/" + "A" * 64,
        "targets/files/" + "a" * 64 + "\n",
        "images/metadata/timestamp.json\0",
        "images\\metadata\\timestamp.json",
        "targets/files/" + "é" * 64,
        "a/" * 2000 + "b",
    ],
    ids=lambda path: repr(path[:40]),
)
async def test_path_tricks_lead_nowhere(hop: Hop, path: str) -> None:
    await hop.enrol()
    with pytest.raises((NotFound, Refused)):
        await hop.hub.fetch(CAMERA, path)


@pytest.mark.parametrize("other", ["camera-2", STRANGER, NODE, "..", ""])
async def test_directors_word_for_another_device_is_refused(hop: Hop, other: str) -> None:
    await hop.enrol()
    await hop.enrol("camera-2")
    with pytest.raises((NotFound, Refused)):
        await hop.hub.fetch(CAMERA, f"director/{other}/metadata/timestamp.json")


async def test_directors_word_says_what_was_assigned(hop: Hop) -> None:
    await hop.enrol()
    await hop.cloud.assign(CAMERA, "tiny@1.2.3")
    assert b"tiny@1.2.3" in await hop.read(f"director/{CAMERA}/metadata/2.targets.json")


async def test_patch_is_offered_and_makes_the_file(hop: Hop) -> None:
    base = random.Random(1).randbytes(100_000)
    want = base[:-500] + bytes(500)
    for version, model in (("1.0.0", base), ("1.1.0", want)):
        await hop.cloud.hand_over(make_parts(version=version).with_model(model))
    await hop.enrol()
    name = PatchName(digest(want), digest(base))
    offered = await hop.hub.fetch(CAMERA, name.offer_path)
    assert not offered.immutable, "what is offered today may be gone tomorrow"
    offer = from_json(await hop.read(name.offer_path), PatchOffer, what="an offer")
    patch = await hop.read(f"targets/{file_target(offer.sha256)}")
    assert (digest(patch), len(patch)) == (offer.sha256, offer.size_bytes)
    made: list[bytes] = []
    apply_patch(io.BytesIO(patch), io.BytesIO(base), made.append, result_bytes=len(want))
    assert b"".join(made) == want
    assert len(patch) < 1_000


async def test_patch_that_is_not_worth_it_is_not_found(hop: Hop) -> None:
    models = [random.Random(seed).randbytes(100_000) for seed in (1, 2)]
    for version, model in zip(("1.0.0", "1.1.0"), models, strict=True):
        await hop.cloud.hand_over(make_parts(version=version).with_model(model))
    await hop.enrol()
    for base in (digest(models[0]), NOTHING, digest(b"never published")):
        with pytest.raises(NotFound):
            await hop.hub.fetch(CAMERA, PatchName(digest(models[1]), base).offer_path)


# ---- send


async def _counted(hop: Hop, total: int) -> None:
    async def there() -> bool:
        return sum(row.distinct for row in await hop.cloud.database.read(inbox.count_events)) >= total

    await until(there, f"{total} events")


async def test_new_events_are_accepted(hop: Hop) -> None:
    await hop.enrol()
    reply = await hop.hub.send(CAMERA, SendRequest(events=(event(1), event(2))))
    assert reply == SendReply(accepted=2, repeated=0)


async def test_repeated_events_are_counted_as_such(hop: Hop) -> None:
    await hop.enrol()
    await hop.hub.send(CAMERA, SendRequest(events=(event(1), event(2))))
    reply = await hop.hub.send(CAMERA, SendRequest(events=(event(2), event(3))))
    assert reply == SendReply(accepted=1, repeated=1)


@pytest.mark.parametrize(
    "other",
    [event(2, at_ms=1), event(2, sample()), event(2, Alert(what="w", detail="d"))],
    ids=["time", "sample", "alert"],
)
async def test_another_event_of_a_used_identity_is_rejected_as_such(hop: Hop, other: Event) -> None:
    await hop.enrol()
    await hop.hub.send(CAMERA, SendRequest(events=(event(1), event(2))))
    reply = await hop.hub.send(CAMERA, SendRequest(events=(event(1), other, event(3))))
    assert (reply.accepted, reply.repeated) == (1, 1)
    assert [(one.index, one.reused) for one in reply.rejected] == [(1, True)]
    await _counted(hop, 3)


async def test_event_twice_in_a_batch_is_taken_once(hop: Hop) -> None:
    await hop.enrol()
    reply = await hop.hub.send(CAMERA, SendRequest(events=(event(1), event(1))))
    assert reply == SendReply(accepted=1, repeated=1)


async def test_same_sequence_of_another_epoch_is_another_event(hop: Hop) -> None:
    await hop.enrol()
    reply = await hop.hub.send(CAMERA, SendRequest(events=(event(1), event(1, epoch=8))))
    assert reply == SendReply(accepted=2, repeated=0)


async def test_empty_batch_is_taken(hop: Hop) -> None:
    await hop.enrol()
    assert await hop.hub.send(CAMERA, SendRequest(events=())) == SendReply(accepted=0, repeated=0)


async def test_sent_events_are_in_the_clouds_inbox_once(hop: Hop) -> None:
    await hop.enrol()
    batch = SendRequest(events=(event(1), event(2, sample()), event(3, Alert(what="w", detail="d"))))
    await hop.hub.send(CAMERA, batch)
    await hop.hub.send(CAMERA, batch)
    await _counted(hop, 3)
    (row,) = await hop.cloud.database.read(inbox.count_events)
    assert (row.device_id, row.readings, row.samples, row.alerts, row.distinct) == (CAMERA, 1, 1, 1, 3)


async def test_bytes_of_a_sample_are_kept(hop: Hop) -> None:
    await hop.enrol()
    await hop.hub.send(CAMERA, SendRequest(events=(event(1), event(2, sample(b"some pixels")))))
    await _counted(hop, 2)
    _, key = await hop.cloud.database.read(lambda c: inbox.get_sample(c, f"{CAMERA}.7.2"))
    assert await hop.cloud.stores.blobs.get(key) == b"some pixels"


async def test_reading_arrives_as_it_was_made(hop: Hop) -> None:
    await hop.enrol()
    made = reading(LABELS[2], margin=0.25, novelty=1.5)
    await hop.hub.send(CAMERA, SendRequest(events=(event(1, made),)))
    await _counted(hop, 1)
    (view,) = await hop.cloud.database.read(lambda c: inbox.list_readings(c, CAMERA, after=0, limit=10))
    assert view.reading == made


async def test_events_of_a_stranger_are_rejected_by_their_index(hop: Hop) -> None:
    await hop.enrol()
    await hop.enrol("camera-2")
    batch = (event(1), event(1, device_id=STRANGER), event(2), event(1, device_id="camera-2"))
    reply = await hop.hub.send(CAMERA, SendRequest(events=batch))
    assert (reply.accepted, reply.repeated, [one.index for one in reply.rejected]) == (2, 0, [1, 3])


async def test_rejected_events_do_not_reach_the_inbox(hop: Hop) -> None:
    await hop.enrol()
    await hop.hub.send(CAMERA, SendRequest(events=(event(1, device_id=STRANGER), event(1))))
    await _counted(hop, 1)
    assert {row.device_id for row in await hop.cloud.database.read(inbox.count_events)} == {CAMERA}


# ---- infer


@pytest.mark.parametrize("index", range(4))
async def test_published_bundle_predicts(hop: Hop, index: int) -> None:
    await hop.enrol()
    await hop.cloud.publish()
    reply = await hop.hub.infer(CAMERA, InferRequest(name="tiny", data=picture(index), deadline_ms=30_000))
    assert reply.prediction.label == LABELS[index]


async def test_newest_version_answers_unless_one_is_named(hop: Hop) -> None:
    await hop.enrol()
    await hop.cloud.publish("1.9.0")
    await hop.cloud.publish("1.10.0")
    newest = await hop.hub.infer(CAMERA, InferRequest(name="tiny", data=picture(), deadline_ms=30_000))
    named = await hop.hub.infer(CAMERA, InferRequest(name="tiny", version="1.9.0", data=picture(), deadline_ms=30_000))
    assert (newest.prediction.bundle, named.prediction.bundle) == ("tiny@1.10.0", "tiny@1.9.0")


@pytest.mark.parametrize("version", [None, "1.0.0"])
async def test_bundle_that_is_not_published_is_not_found(hop: Hop, version: str | None) -> None:
    await hop.enrol()
    with pytest.raises(NotFound):
        await hop.hub.infer(CAMERA, InferRequest(name="tiny", version=version, data=picture()))


async def test_input_that_is_no_image_is_corrupt(hop: Hop) -> None:
    await hop.enrol()
    await hop.cloud.publish()
    with pytest.raises(Corrupt):
        await hop.hub.infer(CAMERA, InferRequest(name="tiny", data=b"no image", deadline_ms=30_000))


async def test_answer_that_misses_its_deadline_is_unavailable(hop: Hop) -> None:
    await hop.enrol()
    await hop.cloud.publish()
    with pytest.raises(Unavailable):  # loading the model alone takes longer
        await hop.hub.infer(CAMERA, InferRequest(name="tiny", data=picture(), deadline_ms=1))


async def test_hub_answers_after_a_missed_deadline(hop: Hop) -> None:
    await hop.enrol()
    await hop.cloud.publish()
    with pytest.raises(Unavailable):
        await hop.hub.infer(CAMERA, InferRequest(name="tiny", data=picture(), deadline_ms=1))
    reply = await hop.hub.infer(CAMERA, InferRequest(name="tiny", data=picture(1), deadline_ms=30_000))
    assert reply.prediction.label == LABELS[1]


# ---- the node, while the cloud is away


async def test_node_acknowledges_while_the_cloud_is_away(behind_node: tuple[Hop, Node]) -> None:
    hop, node = behind_node
    await hop.enrol()
    node.wire.is_cut = True
    assert await hop.hub.send(CAMERA, SendRequest(events=(event(1),))) == SendReply(accepted=1, repeated=0)


async def test_node_relays_what_it_acknowledged_once_the_cloud_is_back(behind_node: tuple[Hop, Node]) -> None:
    hop, node = behind_node
    await hop.enrol()
    node.wire.is_cut = True
    await hop.hub.send(CAMERA, SendRequest(events=(event(1), event(2, sample()))))
    assert await hop.cloud.database.read(inbox.count_events) == []
    node.wire.is_cut = False
    await _counted(hop, 2)
    (row,) = await hop.cloud.database.read(inbox.count_events)
    assert (row.readings, row.samples) == (1, 1)


async def test_node_serves_what_it_carried_while_the_cloud_is_away(behind_node: tuple[Hop, Node]) -> None:
    hop, node = behind_node
    await hop.enrol()
    await hop.cloud.publish()
    (sha256, data), *_ = make_parts().files.items()
    await hop.read(f"targets/{file_target(sha256)}")
    node.wire.is_cut = True
    assert await hop.read(f"targets/{file_target(sha256)}") == data


async def test_node_serves_the_last_timestamp_while_the_cloud_is_away(behind_node: tuple[Hop, Node]) -> None:
    hop, node = behind_node
    await hop.enrol()
    last = await hop.read("images/metadata/timestamp.json")
    node.wire.is_cut = True
    assert await hop.read("images/metadata/timestamp.json") == last


async def test_file_that_was_never_carried_is_unavailable_while_the_cloud_is_away(
    behind_node: tuple[Hop, Node],
) -> None:
    hop, node = behind_node
    await hop.enrol()
    node.wire.is_cut = True
    with pytest.raises(Unavailable):
        await hop.hub.fetch(CAMERA, f"targets/files/{'0' * 64}")


async def test_enrolment_is_unavailable_while_the_cloud_is_away(behind_node: tuple[Hop, Node]) -> None:
    hop, node = behind_node
    secret = hop.cloud.join_secret()
    node.wire.is_cut = True
    with pytest.raises(Unavailable):
        await hop.hub.enrol(enrol_request(CAMERA, secret))


async def test_inference_is_unavailable_while_the_cloud_is_away(behind_node: tuple[Hop, Node]) -> None:
    hop, node = behind_node
    await hop.enrol()
    node.wire.is_cut = True
    with pytest.raises(Unavailable):
        await hop.hub.infer(CAMERA, InferRequest(name="tiny", data=picture()))


async def test_enrolled_device_can_prove_itself_while_the_cloud_is_away(behind_node: tuple[Hop, Node]) -> None:
    hop, node = behind_node
    await hop.enrol()
    node.wire.is_cut = True
    assert await hop.hub.public_key(CAMERA) == public_key_of(CAMERA)


async def test_sync_says_whether_the_cloud_is_reachable(behind_node: tuple[Hop, Node]) -> None:
    hop, node = behind_node
    await hop.enrol()

    async def reachable(wanted: bool) -> bool:
        # A report that differs each time makes the node speak to the cloud.
        said = report(CAMERA, active=f"tiny@1.0.{next(numbers)}")
        reply = await hop.hub.sync(CAMERA, SyncRequest(reports=(said,)))
        return reply.upstream_reachable is wanted

    numbers = iter(range(10_000))
    await until(lambda: reachable(True), "the cloud within reach")
    node.wire.is_cut = True
    await until(lambda: reachable(False), "the cloud out of reach")
    node.wire.is_cut = False
    await until(lambda: reachable(True), "the cloud within reach again")


async def test_what_was_said_while_the_cloud_was_away_comes_up_when_it_is_back(behind_node: tuple[Hop, Node]) -> None:
    hop, node = behind_node
    await hop.enrol()
    node.wire.is_cut = True
    await hop.hub.sync(CAMERA, SyncRequest(reports=(report(CAMERA, active="tiny@1.0.0"),)))

    async def is_away() -> bool:
        assert node.hub.sync_loop is not None
        return not node.hub.sync_loop.is_reachable

    async def arrived() -> bool:
        views = {view.device_id: view for view in await hop.cloud.database.read(fleet.list_devices)}
        told = views[CAMERA].report
        return told is not None and told.active == "tiny@1.0.0"

    await until(is_away, "the cloud out of reach")
    node.wire.is_cut = False
    await until(arrived, "what the device said once")


async def test_restarted_node_knows_every_device_that_enrolled_at_once(cloud: SmallCloud, tmp_path: Path) -> None:
    names = [f"camera-{index}" for index in range(20)]
    node = await start_node(cloud, tmp_path / "node")
    secret = cloud.join_secret(uses=len(names))
    await asyncio.gather(*(node.hub.enrol(enrol_request(name, secret)) for name in names))
    cloud.waker.release()
    await node.stop()
    again = await start_node(cloud, tmp_path / "node")
    known = [await again.hub.public_key(name) for name in names]
    await again.stop()
    assert known == [public_key_of(name) for name in names]


async def test_restarted_node_remembers_what_is_desired(cloud: SmallCloud, tmp_path: Path) -> None:
    node = await start_node(cloud, tmp_path / "node")
    hop = Hop(node.hub, cloud, node)
    await hop.enrol()
    await hop.sync()
    await _seen_by_cloud(hop, CAMERA)
    await _desired_at(hop, CAMERA, await cloud.assign(CAMERA))
    cloud.waker.release()
    await node.stop()
    again = await start_node(cloud, tmp_path / "node")
    again.wire.is_cut = True
    reply = await again.hub.sync(CAMERA, SyncRequest(reports=(report(CAMERA),)))
    await again.stop()
    assert reply.desired == (Desired(device_id=CAMERA, generation=1),)


async def test_damaged_file_from_above_is_not_passed_on(cloud: SmallCloud, tmp_path: Path) -> None:
    node = await start_node(cloud, tmp_path / "node")
    hop = Hop(node.hub, cloud, node)
    await hop.enrol()
    await cloud.stores.blobs.put(f"files/{digest(b'a')[:2]}/{digest(b'a')}", b"b")
    with pytest.raises(EdgeloopError, match="hash"):
        await hop.hub.fetch(CAMERA, f"targets/files/{digest(b'a')}")
    cloud.waker.release()
    await node.stop()


async def test_revoked_device_is_turned_down_where_it_stands(hop: Hop) -> None:
    await hop.enrol()
    waiting = asyncio.create_task(hop.sync(wait_s=MAX_WAIT_S))
    while not (hop.node.waker if hop.node else hop.cloud.waker)._waiting.get(CAMERA):
        await asyncio.sleep(0)

    def revoke(connection: sa.Connection) -> set[str]:
        fleet.revoke(connection, CAMERA, now_s=1.0)
        return fleet.with_carriers(connection, {CAMERA})

    hop.cloud.waker.wake(await hop.cloud.database.write(revoke))
    with pytest.raises(Refused, match="was revoked"):
        async with asyncio.timeout(10):
            await waiting
    assert await hop.hub.public_key(CAMERA) is None


async def test_device_that_was_let_in_again_is_known_where_it_stands(hop: Hop) -> None:
    await hop.enrol()

    def revoke(connection: sa.Connection) -> set[str]:
        fleet.revoke(connection, CAMERA, now_s=1.0)
        fleet.allow_rejoin(connection, CAMERA)
        return fleet.with_carriers(connection, {CAMERA})

    hop.cloud.waker.wake(await hop.cloud.database.write(revoke))

    async def is_turned_down() -> bool:
        return await hop.hub.public_key(CAMERA) is None

    await until(is_turned_down, "the revocation")
    secret = hop.cloud.join_secret()
    await hop.hub.enrol(enrol_request(CAMERA, secret, key_number=1))
    assert await hop.hub.public_key(CAMERA) == public_key_of(CAMERA, number=1)
    assert (await hop.sync(known=9)).desired == ()


# ---- reports that cannot be kept

BAD_REPORTS = {
    "a NaN deep within": {"health": Health(trust=TrustHealth(expires_at_s=math.nan))},
    "an infinite age": {"age_s": math.inf},
    "a NaN on watch": {
        "update": UpdateReport(
            generation=1,
            rollout_id="r",
            bundle="tiny@1.0.0",
            state=UpdateState.ACTIVE,
            watch=WatchStats(latency_p50_ms=math.nan),
        )
    },
    "a rollout that no database can ask for": {
        "update": UpdateReport(generation=1, rollout_id="r\0", bundle="tiny@1.0.0", state=UpdateState.ACTIVE)
    },
    "too large": {"health": Health(error_reason="x" * MAX_REPORT_BYTES)},
}


@pytest.mark.parametrize("bad", BAD_REPORTS.values(), ids=BAD_REPORTS)
async def test_report_that_cannot_be_kept_is_turned_down_and_its_sender_told(hop: Hop, bad: dict[str, Any]) -> None:
    await hop.enrol()
    bad_report = msgspec.structs.replace(report(CAMERA), **bad)
    reply = await hop.hub.sync(CAMERA, SyncRequest(reports=(bad_report,)))
    assert [(one.device_id, bool(one.reason)) for one in reply.rejected] == [(CAMERA, True)]
    good = await hop.hub.sync(CAMERA, SyncRequest(reports=(report(CAMERA),)))
    assert good.rejected == ()


@pytest.mark.parametrize("bad", BAD_REPORTS.values(), ids=BAD_REPORTS)
async def test_bad_report_of_one_device_hides_and_holds_up_nobody_else(hop: Hop, bad: dict[str, Any]) -> None:
    await hop.enrol()
    await hop.enrol("camera-2")
    await hop.hub.sync(CAMERA, SyncRequest(reports=(msgspec.structs.replace(report(CAMERA), **bad),)))
    await hop.hub.sync("camera-2", SyncRequest(reports=(report("camera-2", active="tiny@9.0.0"),)))

    async def is_heard() -> bool:
        views = {one.device_id: one for one in hop.cloud.database.read_now(fleet.list_devices)}
        assert views[CAMERA].report is None
        told = views["camera-2"].report
        return told is not None and told.active == "tiny@9.0.0"

    await until(is_heard, "the cloud hearing of camera-2")
    generation = await hop.cloud.assign("camera-2")
    await _desired_at(hop, "camera-2", generation)


async def test_cloud_drops_a_bad_report_and_not_the_sync_of_the_node_that_brings_it(cloud: SmallCloud) -> None:
    cloud.enrol(NODE, kind=Kind.NODE)
    cloud.enrol(CAMERA, "camera-2", via=NODE)
    generation = await cloud.assign("camera-2")
    bad = msgspec.structs.replace(report(CAMERA), **BAD_REPORTS["a NaN deep within"])
    reply = await cloud.hub.sync(
        NODE, SyncRequest(reports=(report(NODE), bad, report("camera-2", active="tiny@9.0.0")))
    )
    assert [one.device_id for one in reply.rejected] == [CAMERA]
    assert reply.desired == (Desired(device_id="camera-2", generation=generation),)
    views = {one.device_id: one.report for one in cloud.database.read_now(fleet.list_devices)}
    assert views[CAMERA] is None
    assert views["camera-2"] is not None
