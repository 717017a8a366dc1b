"""What a node asks above for its devices' signed words, and what it answers them with."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from edgeloop.contracts.errors import EdgeloopError, NotFound, Unavailable
from edgeloop.contracts.messages import MAX_PLACES, Held, TrustReply, TrustRequest
from edgeloop.hub.port import Served
from edgeloop.node.words import CarriedWords
from edgeloop.transport.keep import Keep
from edgeloop.transport.packed import version_of
from signing_cloud import CAMERA, ROOT, SigningCloud, an_assignment

pytestmark = pytest.mark.anyio

MINE = f"director/{CAMERA}"
BOTH = {"images": Held(root=1), MINE: Held(root=1)}


class Above:
    """The hub above: a cloud in memory, which may be away, old, or lie."""

    def __init__(self) -> None:
        self.cloud = SigningCloud()
        self.requests: list[TrustRequest] = []
        self.fails: EdgeloopError | None = None
        self.lie: Callable[[TrustReply], TrustReply] = lambda reply: reply

    async def trust(self, request: TrustRequest) -> TrustReply:
        """See Uplink.trust."""
        self.requests.append(request)
        await asyncio.sleep(0)
        if self.fails is not None:
            raise self.fails
        return self.lie(self.cloud.fetch_all(request))


class NoFiles:
    """The part of a cache that words need: it has nothing."""

    async def get(self, path: str) -> Served:
        """See Cache.get."""
        raise NotFound(path)


class Node:
    """A node's words, with what it was told and a clock that a test moves."""

    def __init__(self, above: Above, folder: Path) -> None:
        self.told: dict[str, int] = {}
        self.now_s = 1000.0
        self.keep = Keep(folder / "node.db")
        self.words = CarriedWords(
            above,  # type: ignore[arg-type]
            self.keep,
            NoFiles(),  # type: ignore[arg-type]
            told=lambda: self.told,
            clock_s=lambda: self.now_s,
        )

    async def ask(self, held: dict[str, Held] | None = None) -> TrustReply:
        """One device's question."""
        return await self.words.newer(TrustRequest(held=held or BOTH))

    async def close(self) -> None:
        """End it."""
        await self.words.close()
        self.keep.close()


@pytest.fixture
def above() -> Above:
    return Above()


@pytest.fixture
async def node(above: Above, tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(above, tmp_path)
    yield made
    await made.close()


def _held_after(reply: TrustReply) -> dict[str, Held]:
    """What a device holds that held root 1 before."""
    held = dict(BOTH)
    for path, data in reply.metadata.items():
        place, _, file = path.partition("/metadata/")
        held[place] = msgspec.structs.replace(held[place], **{file.split(".")[-2]: version_of(data)})
    return held


async def test_device_is_answered_as_the_hub_above_would_answer_it(above: Above, node: Node) -> None:
    said = await node.ask()
    assert (set(said.whole), dict(said.metadata)) == (
        set(BOTH),
        above.cloud.fetch_all(TrustRequest(held=BOTH)).metadata,
    )


async def test_who_holds_all_is_sent_nothing(node: Node) -> None:
    held = _held_after(await node.ask())
    said = await node.ask(held)
    assert (set(said.whole), said.metadata) == (set(BOTH), {})


async def test_hundred_devices_that_ask_at_once_cost_one_question(above: Above, node: Node) -> None:
    names = [f"camera-{number}" for number in range(100)]
    for name in names:
        above.cloud.assign(an_assignment(), device=name)
    asked = [node.ask({"images": Held(root=1), f"director/{name}": Held(root=1)}) for name in names]
    answers = await asyncio.gather(*asked)
    assert [f"director/{name}" in said.whole for name, said in zip(names, answers, strict=True)] == [True] * 100
    assert len(above.requests) == 1


async def test_first_who_asks_brings_the_words_of_all_of_whom_there_is_news(above: Above, node: Node) -> None:
    above.cloud.assign(an_assignment(), device="camera-2")
    node.told = {CAMERA: 1, "camera-2": 1}
    await node.ask()
    await node.ask({"images": Held(root=1), "director/camera-2": Held(root=1)})
    assert [set(request.held) for request in above.requests] == [{"images", MINE, "director/camera-2"}]


async def test_more_devices_than_fit_into_one_question_take_two(above: Above, node: Node) -> None:
    names = [f"camera-{number}" for number in range(MAX_PLACES + 10)]
    for name in names:
        above.cloud.assign(an_assignment(), device=name)
    node.told = dict.fromkeys(names, 1)
    await node.ask()
    assert len(above.requests) == 2
    assert all(len(request.held) <= MAX_PLACES for request in above.requests)
    assert {place for request in above.requests for place in request.held} >= {f"director/{name}" for name in names}


async def test_what_was_asked_for_a_moment_ago_is_not_asked_for_again(above: Above, node: Node) -> None:
    for _ in range(3):
        await node.ask()
        node.now_s += 2.0
    assert len(above.requests) == 1
    node.now_s += 4.0
    await node.ask()
    assert len(above.requests) == 2


async def test_who_was_told_of_a_newer_assignment_is_not_answered_with_the_old_one(above: Above, node: Node) -> None:
    held = _held_after(await node.ask())
    above.cloud.assign(an_assignment(generation=2), generation=2)
    node.told = {CAMERA: 2}
    assert f"{MINE}/metadata/3.targets.json" in (await node.ask(held)).metadata
    assert len(above.requests) == 2
    assert above.requests[1].held[MINE].targets == 2, "what is here is not sent again"


async def test_last_words_stand_in_while_the_hub_above_is_away_also_after_a_restart(
    above: Above, node: Node, tmp_path: Path
) -> None:
    before = await node.ask()
    above.fails = Unavailable("the cloud is away")
    node.now_s += 1000.0
    assert await node.ask() == before
    again = Node(above, tmp_path)
    said = await again.ask()
    await again.close()
    assert said == before


async def test_without_any_words_the_device_is_told_that_the_hub_above_is_away(above: Above, node: Node) -> None:
    above.fails = Unavailable("the cloud is away")
    with pytest.raises(Unavailable, match="the cloud is away"):
        await node.ask()
    above.fails = None
    assert set((await node.ask()).whole) == set(BOTH)


async def test_hub_above_that_is_older_is_said_to_be(above: Above, node: Node) -> None:
    above.fails = NotFound("there is nothing here")
    with pytest.raises(NotFound):
        await node.ask()


async def test_device_that_was_off_gets_every_root_since_the_one_it_has(above: Above, node: Node) -> None:
    await node.ask()
    for _ in range(2):
        above.cloud.rotate("director", lambda root: None, ROOT)
    node.now_s += 10.0
    said = await node.ask()
    roots = {path for path in said.metadata if path.endswith(".root.json")}
    assert roots == {f"{MINE}/metadata/{number}.root.json" for number in (2, 3)}


async def test_new_root_makes_the_words_of_all_devices_old(above: Above, node: Node) -> None:
    above.cloud.assign(an_assignment(), device="camera-2")
    other = {"images": Held(root=1), "director/camera-2": Held(root=1)}
    await node.ask(other)
    above.cloud.rotate("director", lambda root: None, ROOT)
    await node.ask()
    said = await node.ask(other)
    assert "director/camera-2/metadata/3.targets.json" in said.metadata, "signed below the new root"


async def test_files_of_no_known_name_and_roots_out_of_order_are_not_kept(above: Above, node: Node) -> None:
    strange = {
        "../../etc/passwd": b"x",
        f"{MINE}/metadata/evil.json": b"x",
        f"{MINE}/metadata/{10**17}.root.json": b"x",
        "images/metadata/7.root.json": b"x",
    }
    above.lie = lambda reply: msgspec.structs.replace(reply, metadata=dict(reply.metadata) | strange)
    said = await node.ask()
    assert not set(strange) & set(said.metadata)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"signed": {"targets": 7}}', b"[" * 100_000])
async def test_words_that_are_no_metadata_are_not_passed_on(above: Above, node: Node, data: bytes) -> None:
    path = f"{MINE}/metadata/2.targets.json"
    above.cloud.slipped = {path: data}
    said = await node.ask()
    assert (said.whole, path in said.metadata) == (("images",), False)
    above.cloud.slipped = {}
    node.now_s += 10.0
    assert set((await node.ask()).whole) == set(BOTH)


async def test_device_that_gave_up_does_not_spoil_it_for_others(above: Above, node: Node) -> None:
    gave_up, stayed = asyncio.create_task(node.ask()), asyncio.create_task(node.ask())
    await asyncio.sleep(0)
    gave_up.cancel()
    assert set((await stayed).whole) == set(BOTH)


async def test_what_does_not_come_at_once_does_not_come_along(node: Node) -> None:
    said = await node.words.newer(TrustRequest(held=BOTH, along_bytes=65_536))
    assert (said.along, set(said.whole)) == ({}, set(BOTH))


async def test_only_those_of_whom_there_is_news_are_asked_for_beside_who_asks(above: Above, node: Node) -> None:
    other = "director/other"
    node.told = {CAMERA: 1, "other": 1}
    await node.ask()
    node.words._copies[other] = node.words._copies[MINE]  # there, and of the generation that was told
    node.now_s += 10.0
    await node.ask()
    assert set(above.requests[-1].held) == set(BOTH)
    node.told["other"] = 99
    node.now_s += 10.0
    await node.ask()
    assert set(above.requests[-1].held) == {*BOTH, other}


async def test_what_the_hub_above_leaves_out_is_not_answered_from_an_old_copy(above: Above, node: Node) -> None:
    await node.ask()
    node.now_s += 10.0
    above.lie = lambda reply: msgspec.structs.replace(reply, whole=(MINE,), metadata={})
    assert set((await node.ask()).whole) == {MINE}


async def test_an_old_copy_is_no_answer_to_news_that_cannot_be_had(above: Above, node: Node) -> None:
    await node.ask()
    node.now_s += 10.0
    above.fails = Unavailable("away")
    assert set((await node.ask()).whole) == set(BOTH)
    node.told = {CAMERA: 99}
    with pytest.raises(Unavailable):
        await node.ask()


async def test_copies_that_cannot_be_read_are_asked_for_anew(above: Above, tmp_path: Path) -> None:
    keep = Keep(tmp_path / "node.db")
    keep.set({"signed roots": 5, f"signed {MINE}": "what"})
    keep.close()
    node = Node(above, tmp_path)
    assert set((await node.ask()).whole) == set(BOTH)
    await node.close()
