"""Signed metadata in one answer: how much is asked for, and what becomes of answers that lie or do not come."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edgeloop.contracts.errors import Corrupt, EdgeloopError, NotFound, Refused, Unavailable
from edgeloop.contracts.messages import Held, TrustReply, TrustRequest
from edgeloop.contracts.names import BundleRef
from edgeloop.transport.packed import Kept, Packed, version_of
from edgeloop.transport.trust import Trust
from signing_cloud import CAMERA, DIRECTOR_ROOT, IMAGES_ROOT, ROOT, THIEF, SigningCloud, an_assignment, key

MINE = f"director/{CAMERA}"
TIMESTAMP = f"{MINE}/metadata/timestamp.json"


class Hub:
    """A cloud, and what becomes of its one answer on its way."""

    def __init__(self) -> None:
        self.cloud = SigningCloud()
        self.requests: list[TrustRequest] = []
        self.replies: list[TrustReply] = []
        self.fails: EdgeloopError | None = None
        self.lie: Callable[[TrustReply], TrustReply] = lambda reply: reply

    def fetch_all(self, request: TrustRequest) -> TrustReply:
        """See trust.FetchAll."""
        self.requests.append(request)
        if self.fails is not None:
            raise self.fails
        self.replies.append(self.lie(self.cloud.fetch_all(request)))
        return self.replies[-1]

    @property
    def singly(self) -> list[str]:
        """The files that were asked for by themselves."""
        return [path for path in self.cloud.fetched if path != "trust"]


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def trust(hub: Hub, tmp_path: Path) -> Trust:
    return _trust(hub, tmp_path)


def _trust(hub: Hub, folder: Path) -> Trust:
    return Trust(
        folder,
        images_root=IMAGES_ROOT,
        director_root=DIRECTOR_ROOT,
        fetch=hub.cloud.fetch,
        fetch_all=hub.fetch_all,
    )


def _without(reply: TrustReply, *paths: str) -> TrustReply:
    kept = {path: data for path, data in reply.metadata.items() if path not in paths}
    return msgspec.structs.replace(reply, metadata=kept)


def test_assignment_takes_one_question(hub: Hub, trust: Trust) -> None:
    assert trust.assignment(CAMERA) == an_assignment()
    assert (len(hub.requests), hub.singly) == (1, [])


def test_who_is_current_is_sent_nothing(hub: Hub, trust: Trust, tmp_path: Path) -> None:
    trust.assignment(CAMERA)
    for asking in (trust, _trust(hub, tmp_path)):  # and after a restart
        assert asking.assignment(CAMERA) == an_assignment()
        assert hub.replies[-1].metadata == {}
    assert (len(hub.requests), hub.singly) == (3, [])


def test_newer_assignment_is_all_that_is_sent_of_it(hub: Hub, trust: Trust) -> None:
    trust.assignment(CAMERA)
    hub.cloud.assign(an_assignment(generation=2), generation=2)
    assert trust.assignment(CAMERA) == an_assignment(generation=2)
    assert {path.partition("/metadata/")[0] for path in hub.replies[-1].metadata} == {MINE}
    assert hub.singly == []


def test_newer_roots_come_in_the_same_answer(hub: Hub, trust: Trust) -> None:
    trust.assignment(CAMERA)
    for _ in range(3):
        hub.cloud.rotate("images", lambda root: None, ROOT)
    assert trust.assignment(CAMERA) == an_assignment()
    assert hub.singly == []
    trust.refresh(CAMERA)
    assert hub.requests[-1].held["images"].root == 4


def test_what_is_left_out_is_asked_for_singly(hub: Hub, trust: Trust) -> None:
    hub.lie = lambda reply: msgspec.structs.replace(_without(reply, *reply.metadata), whole=())
    assert trust.assignment(CAMERA) == an_assignment()
    assert len(hub.singly) == 8


@pytest.mark.parametrize("error", [NotFound("there is nothing here"), Corrupt("it goes on and on"), Refused("no")])
def test_hub_that_does_not_answer_it_is_asked_for_each_file(hub: Hub, trust: Trust, error: EdgeloopError) -> None:
    hub.fails = error
    assert trust.assignment(CAMERA) == an_assignment()
    assert TIMESTAMP in hub.singly


def test_hub_that_is_away_is_not_asked_twice_and_the_next_time_singly(hub: Hub, trust: Trust) -> None:
    hub.fails = Unavailable("the hub is away")
    with pytest.raises(Unavailable, match="the hub is away"):
        trust.assignment(CAMERA)
    assert hub.singly == []
    assert trust.assignment(CAMERA) == an_assignment()
    assert (len(hub.requests), TIMESTAMP in hub.singly) == (1, True)


def test_copy_that_is_damaged_here_is_fetched_though_the_hub_need_not_send_it(
    hub: Hub, trust: Trust, tmp_path: Path
) -> None:
    trust.assignment(CAMERA)
    kept = tmp_path / "director" / "timestamp.json"
    kept.write_bytes(kept.read_bytes().replace(b'"sig":"', b'"sig":"00'))
    assert _trust(hub, tmp_path).assignment(CAMERA) == an_assignment()
    assert TIMESTAMP in hub.singly


def test_claim_that_nothing_changed_holds_only_until_what_is_held_expires(hub: Hub, trust: Trust) -> None:
    """It is worth what handing out the old files again is worth."""
    trust.assignment(CAMERA)
    hub.lie = lambda reply: _without(reply, *reply.metadata)
    assert trust.assignment(CAMERA) == an_assignment()
    expires_at_s = trust.expires_at_s()
    assert expires_at_s is not None
    trust._clock = lambda: expires_at_s + 1.0
    with pytest.raises(Refused, match="expired"):
        trust.assignment(CAMERA)


@pytest.mark.parametrize("file", ["timestamp.json", "2.snapshot.json", "2.targets.json"])
def test_forged_file_of_an_answer_changes_nothing_and_the_true_one_is_asked_for(
    hub: Hub, trust: Trust, file: str
) -> None:
    thief = SigningCloud()
    thief.stolen["director"] = THIEF
    thief.assign(an_assignment(ref=BundleRef("tiny", "9.0.0")))
    path = f"{MINE}/metadata/{file}"

    def lie(reply: TrustReply) -> TrustReply:
        return msgspec.structs.replace(reply, metadata=dict(reply.metadata) | {path: thief.serve(path)})

    hub.lie = lie
    assert trust.assignment(CAMERA) == an_assignment()
    assert hub.singly


def test_root_of_a_thief_in_an_answer_is_not_kept(hub: Hub, trust: Trust, tmp_path: Path) -> None:
    thief = SigningCloud()
    thief.rotate("images", lambda root: None, key(99))
    forged = {"images/metadata/2.root.json": thief.serve("images/metadata/2.root.json")}
    hub.lie = lambda reply: msgspec.structs.replace(reply, metadata=dict(reply.metadata) | forged)
    assert trust.assignment(CAMERA) == an_assignment()
    assert not (tmp_path / "images" / "root_history" / "2.root.json").exists()


def test_file_larger_than_a_file_may_be_is_not_taken_out_of_an_answer(hub: Hub, trust: Trust) -> None:
    hub.lie = lambda reply: msgspec.structs.replace(reply, metadata=dict(reply.metadata) | {TIMESTAMP: b" " * 20_000})
    assert trust.assignment(CAMERA) == an_assignment()
    assert TIMESTAMP in hub.singly


def test_word_for_another_device_is_refused_out_of_an_answer_too(hub: Hub, trust: Trust) -> None:
    hub.cloud.assign(an_assignment(generation=7), device="camera-2", generation=7)
    hub.cloud.tamper = lambda path, data: hub.cloud.serve(path.replace(CAMERA, "camera-2"))
    with pytest.raises(Refused, match="another device"):
        trust.assignment(CAMERA)


# ---- what is held


def test_nothing_is_held_before_anything_was_asked_but_the_root_that_trust_began_with(tmp_path: Path) -> None:
    assert Kept(tmp_path, least_root=3).held == Held(root=3)


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"{",
        b"[]",
        b'{"signed": {}}',
        b'{"signed": {"version": "7"}}',
        b'{"signed": {"version": -1}}',
        b'{"signed": {"version": 10000000000000000000000000}}',
        b"[" * 100_000,
    ],
)
def test_version_of_what_states_none_is_0(data: bytes | None) -> None:
    assert version_of(data) == 0


def test_file_of_a_place_that_nothing_is_said_about_is_not_known(tmp_path: Path) -> None:
    packed = Packed(TrustReply(whole=("images",)), {"images": Kept(tmp_path, least_root=1)})
    assert packed.find(TIMESTAMP, place=MINE, role="timestamp", version=None) is None


def test_root_before_the_one_that_is_held_is_asked_for(tmp_path: Path) -> None:
    packed = Packed(TrustReply(whole=("images",)), {"images": Kept(tmp_path, least_root=3)})
    assert packed.find("images/metadata/2.root.json", place="images", role="root", version=2) is None
    with pytest.raises(NotFound, match="no newer root"):
        packed.find("images/metadata/4.root.json", place="images", role="root", version=4)
