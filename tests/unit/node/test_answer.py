"""A node that answers, over a real cloud whose wire can be cut: TUF, cache, engine and signatures are real."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from builders import LABELS, Damage, make_parts
from edgeloop.bundle.archive import digest
from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, NotFound, Refused, Unavailable
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.messages import InferReply, InferRequest
from edgeloop.contracts.names import BundleRef, file_target, manifest_target
from edgeloop.contracts.states import Kind
from edgeloop.node.answer import Answering
from edgeloop.node.cache import Cache
from edgeloop.node.signed import SignedModels
from edgeloop.transport.budget import Budget
from edgeloop.transport.identity import Identity
from edgeloop.transport.keep import Keep
from edgeloop.transport.membership import Membership
from edgeloop.transport.metering import Meter
from edgeloop.transport.uplink import Uplink
from house import Wire
from small_cloud import SmallCloud, enrol_request, key_of, picture

pytestmark = pytest.mark.anyio

NODE = "gateway"
REF = BundleRef("tiny", "1.0.0")
EIGHT_DAYS_S = 8 * 86_400.0


class Notebook(Wire):
    """A wire that remembers what was asked, and on which a file can be slow or replaced."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self.asked: list[str] = []
        self.slow: asyncio.Event | None = None
        self.slow_path = "/fetch/targets/files/"
        self.forged: dict[str, bytes] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.asked.append(path)
        if self.slow is not None and self.slow_path in path:
            await self.slow.wait()
        if path in self.forged and not self.is_cut:
            return httpx.Response(200, content=self.forged[path], request=request)
        return await super().handle_async_request(request)

    def questions(self) -> int:
        """How many were carried up."""
        return self.asked.count("/v1/infer")


@dataclass
class Site:
    """A node's answering, as its app wires it, and the cloud above."""

    cloud: SmallCloud
    folder: Path
    wire: Notebook
    uplink: Uplink
    member: Membership
    keep: Keep
    open: list[Answering] = field(default_factory=list)
    caches: list[Cache] = field(default_factory=list)
    skew_s: float = 0.0

    def start(self, *, engines: tuple[EngineName, ...] | None = None, asked_every_s: float = 10.0) -> Answering:
        """The node after a start, on what its folder holds."""
        self.open.append(Answering(self.uplink, self.models(asked_every_s=asked_every_s), engines=engines))
        return self.open[-1]

    def models(self, *, asked_every_s: float = 10.0, member: Membership | None = None) -> SignedModels:
        """What it answers with."""
        return SignedModels(
            self.cache(),
            member or self.member,
            self.folder / "trust",
            asked_every_s=asked_every_s,
            clock=lambda: time.time() + self.skew_s,
        )

    def cache(self) -> Cache:
        """What it has carried, with no limit of bytes a day."""
        meter = Meter(Budget(self.keep), on_wait=lambda: None)
        self.caches.append(Cache(self.folder / "cache", self.uplink, meter))
        return self.caches[-1]

    def kept(self, target: str) -> Path:
        """Where the cache keeps a target."""
        return self.folder / "cache" / "targets" / target


@pytest.fixture
async def site(cloud: SmallCloud, tmp_path: Path) -> AsyncIterator[Site]:
    cloud.clock.now_s = time.time()  # by which python-tuf judges what has expired
    wire = Notebook(cloud.app)
    async with httpx.AsyncClient(transport=wire, base_url="http://cloud.test") as client:
        uplink = Uplink(client, Identity(NODE, key_of(NODE)))
        reply = await uplink.enrol(enrol_request(NODE, cloud.join_secret(), kind=Kind.NODE))
        roots = {"images_root": reply.images_root, "director_root": reply.director_root}
        member = Membership(device_id=NODE, kind=Kind.NODE, hub_url="http://cloud.test", **roots)
        keep = Keep(tmp_path / "node" / "node.db")
        made = Site(cloud, tmp_path / "node", wire, uplink, member, keep)
        yield made
        for one in (*made.open, *made.caches):
            await one.close()
        keep.close()
        await cloud.hub.close()


async def _ask(
    answering: Answering, version: str | None = None, index: int = 0, *, deadline_ms: int = 30_000
) -> InferReply:
    request = InferRequest(name="tiny", version=version, data=picture(index), deadline_ms=deadline_ms)
    return await answering.infer(request)


# ---- what can be answered here


async def test_node_answers_what_the_model_answers_and_carries_nothing_up(site: Site) -> None:
    await site.cloud.publish()
    answering = site.start()
    labels = [(await _ask(answering, index=index)).prediction.label for index in range(4)]
    assert (labels, site.wire.questions()) == (list(LABELS), 0)


async def test_named_version_is_answered_beside_a_newer_one(site: Site) -> None:
    await site.cloud.publish("1.9.0")
    await site.cloud.publish("1.10.0")
    answering = site.start()
    bundles = [(await _ask(answering, version)).prediction.bundle for version in (None, "1.9.0")]
    assert (bundles, site.wire.questions()) == (["tiny@1.10.0", "tiny@1.9.0"], 0)


async def test_newest_version_follows_a_publication(site: Site) -> None:
    answering = site.start(asked_every_s=0.0)
    await site.cloud.publish("1.0.0")
    before = (await _ask(answering)).prediction.bundle
    await site.cloud.publish("1.1.0")
    assert (before, (await _ask(answering)).prediction.bundle) == ("tiny@1.0.0", "tiny@1.1.0")


async def test_what_is_signed_is_asked_for_once_for_many_questions(site: Site) -> None:
    await site.cloud.publish()
    answering = site.start()
    await asyncio.gather(*(_ask(answering, index=index % 4) for index in range(16)))
    assert site.wire.asked.count("/v1/fetch/images/metadata/timestamp.json") == 1


async def test_golden_samples_are_not_fetched(site: Site) -> None:
    await site.cloud.publish()
    await _ask(site.start())
    golden = make_parts().manifest.golden
    assert not any(
        f"/v1/fetch/targets/{file_target(one)}" in site.wire.asked for one in (golden.inputs, golden.outputs)
    )


async def test_input_that_is_no_image_is_the_answer_and_not_carried_up(site: Site) -> None:
    await site.cloud.publish()
    with pytest.raises(Corrupt):
        await site.start().infer(InferRequest(name="tiny", data=b"no image", deadline_ms=30_000))
    assert site.wire.questions() == 0


# ---- the hub above is away


async def test_loaded_model_answers_while_the_cloud_is_away(site: Site) -> None:
    await site.cloud.publish()
    answering = site.start(asked_every_s=0.0)
    await _ask(answering)
    site.wire.is_cut = True
    assert (await _ask(answering, index=2)).prediction.label == LABELS[2]


async def test_restarted_node_answers_while_the_cloud_is_away(site: Site) -> None:
    await site.cloud.publish()
    await _ask(site.start())
    site.wire.is_cut = True
    again = site.start()
    assert [(await _ask(again, version)).prediction.label for version in (None, "1.0.0")] == [LABELS[0]] * 2


async def test_node_answers_from_what_its_devices_fetched(site: Site) -> None:
    await site.cloud.publish()
    cache = site.cache()
    metadata = ("timestamp", "1.snapshot", "1.targets", "2.snapshot", "2.targets")
    wanted = [file_target(sha256) for sha256 in make_parts().files] + [manifest_target(REF)]
    for path in [f"targets/{one}" for one in wanted] + [f"images/metadata/{one}.json" for one in metadata]:
        try:
            await cache.get(path)
        except NotFound:
            assert path.startswith("images/metadata/1.")  # of before the publication
    site.wire.is_cut = True
    assert (await _ask(site.start())).prediction.label == LABELS[0]


async def test_node_answers_while_the_hub_above_keeps_it_waiting(site: Site) -> None:
    await site.cloud.publish()
    answering = site.start(asked_every_s=0.0)
    await _ask(answering)
    site.wire.slow, site.wire.slow_path = asyncio.Event(), "/timestamp.json"
    assert [(await _ask(answering, index=index)).prediction.label for index in range(4)] == list(LABELS)
    assert (site.wire.questions(), site.wire.asked[-1]) == (0, "/v1/fetch/images/metadata/timestamp.json")


async def test_nothing_is_answered_by_what_is_expired(site: Site) -> None:
    await site.cloud.publish()
    answering = site.start()
    await _ask(answering)
    site.wire.is_cut = True
    site.skew_s = EIGHT_DAYS_S
    with pytest.raises(Unavailable, match="expired"):
        await _ask(answering)


async def test_node_that_never_heard_what_is_signed_is_unavailable(site: Site) -> None:
    await site.cloud.publish()
    site.wire.is_cut = True
    with pytest.raises(Unavailable, match="not answered here"):
        await _ask(site.start())


async def test_file_that_was_never_fetched_is_unavailable_while_the_cloud_is_away(site: Site) -> None:
    await site.cloud.publish("1.0.0")
    await site.cloud.publish("1.1.0")
    answering = site.start()
    await _ask(answering, "1.0.0")
    site.wire.is_cut = True
    with pytest.raises(Unavailable):
        await _ask(answering, "1.1.0")


# ---- trust


async def test_tampered_file_is_never_answered_from(site: Site) -> None:
    await site.cloud.publish()
    await _ask(site.start())
    model = make_parts().manifest.variants[0].file
    write_durable(site.kept(file_target(model)), _other_model())
    site.wire.is_cut = True
    with pytest.raises(Unavailable):
        await _ask(site.start())


async def test_tampered_file_is_fetched_anew_and_the_node_answers(site: Site) -> None:
    await site.cloud.publish()
    await _ask(site.start())
    model = make_parts().manifest.variants[0].file
    write_durable(site.kept(file_target(model)), _other_model())
    assert (await _ask(site.start())).prediction.label == LABELS[0]
    assert (site.wire.questions(), digest(site.kept(file_target(model)).read_bytes())) == (0, model)


async def test_tampered_manifest_is_never_answered_from(site: Site) -> None:
    await site.cloud.publish()
    await _ask(site.start())
    forged = to_json(make_parts(labels=tuple(reversed(LABELS))).manifest)
    write_durable(site.kept(manifest_target(REF)), forged)
    site.wire.is_cut = True
    with pytest.raises(Unavailable):
        await _ask(site.start())


async def test_unsigned_bundle_in_the_cache_is_not_answered_from(site: Site) -> None:
    await site.cloud.publish()
    answering = site.start()
    await _ask(answering)
    _plant(site, "9.9.9")
    with pytest.raises(NotFound):  # the cloud's word: the question was carried up
        await _ask(answering, "9.9.9")
    assert (await _ask(answering)).prediction.bundle == "tiny@1.0.0"


async def test_unsigned_bundle_in_the_cache_is_not_answered_from_while_the_cloud_is_away(site: Site) -> None:
    await site.cloud.publish()
    answering = site.start()
    await _ask(answering)
    _plant(site, "9.9.9")
    site.wire.is_cut = True
    with pytest.raises(Unavailable, match="never signed"):
        await _ask(answering, "9.9.9")


async def test_metadata_that_other_keys_signed_is_not_believed(site: Site) -> None:
    await site.cloud.publish()
    with pytest.raises(Unavailable, match="does not hold"):
        await site.models(member=_stranger(site.member)).find("tiny", None)


async def test_forged_file_from_above_is_not_answered_from(site: Site) -> None:
    await site.cloud.publish()
    model = make_parts().manifest.variants[0].file
    site.wire.forged[f"/v1/fetch/targets/{file_target(model)}"] = _other_model()
    with pytest.raises(Unavailable, match=r"damaged twice.*another hash"):
        await site.models().file(model)


async def test_file_that_no_signed_path_names_is_refused(site: Site) -> None:
    await site.cloud.publish()
    with pytest.raises(Refused, match="never signed"):
        await site.models().file("0" * 64)


# ---- carried up


async def test_node_without_an_engine_carries_up(site: Site) -> None:
    await site.cloud.publish()
    answering = site.start(engines=())
    assert (await _ask(answering, index=1)).prediction.label == LABELS[1]
    assert site.wire.questions() == 1


async def test_node_whose_engines_run_no_variant_carries_up(site: Site) -> None:
    await site.cloud.publish()
    answering = site.start(engines=(EngineName.LITERT,))
    assert (await _ask(answering, index=1)).prediction.label == LABELS[1]
    assert site.wire.questions() == 1


async def test_node_that_is_told_not_to_answer_carries_up(site: Site) -> None:
    await site.cloud.publish()
    assert (await _ask(Answering(site.uplink, None), index=1)).prediction.label == LABELS[1]
    assert site.wire.questions() == 1


async def test_version_that_was_published_a_moment_ago_is_carried_up(site: Site) -> None:
    await site.cloud.publish("1.0.0")
    answering = site.start()
    await _ask(answering)
    await site.cloud.publish("1.1.0")
    assert (await _ask(answering, "1.1.0")).prediction.bundle == "tiny@1.1.0"
    assert site.wire.questions() == 1


async def _slow(site: Site) -> Answering:
    """A node to which files do not come, under a cloud that has loaded the model."""
    await site.cloud.publish()
    await site.cloud.hub.infer(NODE, InferRequest(name="tiny", data=picture(), deadline_ms=30_000))
    site.wire.slow = asyncio.Event()
    return site.start()


async def test_model_that_does_not_come_in_half_of_the_deadline_is_asked_for_above(site: Site) -> None:
    answering = await _slow(site)
    assert (await _ask(answering, deadline_ms=3000)).prediction.label == LABELS[0]
    assert site.wire.questions() == 1


async def test_model_that_came_too_late_answers_the_next(site: Site) -> None:
    answering = await _slow(site)
    await _ask(answering, deadline_ms=3000)
    assert site.wire.slow is not None
    site.wire.slow.set()
    assert (await _ask(answering, index=3)).prediction.label == LABELS[3]
    assert site.wire.questions() == 1


@pytest.mark.parametrize("away", [False, True])
async def test_missed_deadline_is_unavailable(site: Site, away: bool) -> None:
    await site.cloud.publish()
    site.wire.is_cut = away
    with pytest.raises(Unavailable):
        await _ask(site.start(), deadline_ms=1)


async def test_what_the_cloud_says_of_a_question_carried_up_comes_out(site: Site) -> None:
    with pytest.raises(NotFound, match="published"):
        await _ask(site.start())


@pytest.mark.parametrize("path", ["/fetch/targets/files/", "/timestamp.json"])
async def test_closing_does_not_wait_for_a_hub_that_does_not_answer(site: Site, path: str) -> None:
    answering = await _slow(site)
    site.wire.slow_path = path
    await _ask(answering, deadline_ms=3000)
    async with asyncio.timeout(10.0):
        await answering.close()
    assert any(path in one for one in site.wire.asked)


def _other_model() -> bytes:
    """A model that an engine runs, and that answers otherwise."""
    parts = make_parts(damage=Damage.WEIGHTS)
    return parts.files[parts.manifest.variants[0].file]


def _plant(site: Site, version: str) -> None:
    """Put a whole and sound bundle that nobody signed into the cache, where a published one would be."""
    parts = make_parts(version=version)
    write_durable(site.kept(manifest_target(parts.manifest.ref)), to_json(parts.manifest))
    for sha256, data in parts.files.items():
        write_durable(site.kept(file_target(sha256)), data)


def _stranger(member: Membership) -> Membership:
    """A member whose trust began with other keys."""
    return Membership(
        device_id=member.device_id,
        kind=member.kind,
        hub_url=member.hub_url,
        images_root=member.director_root,
        director_root=member.images_root,
    )
