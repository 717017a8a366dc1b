"""A real cloud, a real node and a device's uplink: the node answers what is signed, also when the cloud is gone."""

import asyncio
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builders import LABELS, Damage, make_bundle, make_parts
from edgeloop.bundle.archive import digest
from edgeloop.bundle.durable import write_durable
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.contracts.api import JoinTokenRequest
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.join import parse_join_token
from edgeloop.contracts.messages import InferRequest
from edgeloop.contracts.names import file_target, manifest_target
from edgeloop.contracts.prediction import Prediction
from edgeloop.contracts.states import Kind
from edgeloop.runtime.profile import this_machine
from edgeloop.toolchain.publish import publish
from edgeloop.transport.cloud_api import CloudApi, Operator, read_operator
from edgeloop.transport.membership import join_hub, open_client, open_identity
from edgeloop.transport.uplink import Uplink
from processes import Process, free_port
from small_cloud import picture

DEADLINE_MS = 20_000


@pytest.fixture(autouse=True)
def _linux_only() -> None:
    if sys.platform != "linux":
        pytest.skip("SIGKILL semantics are tested on Linux")


@dataclass
class World:
    """A cloud with a bundle published in it, a node, and a device that is enrolled through the node."""

    folder: Path
    cloud: Process
    node: Process
    url: str

    def ask(self, version: str | None = None, index: int = 0, *, deadline_ms: int = DEADLINE_MS) -> Prediction:
        """What the device is answered."""
        return asyncio.run(self._ask(version, index, deadline_ms))

    async def _ask(self, version: str | None, index: int, deadline_ms: int) -> Prediction:
        async with open_client(self.url) as client:
            uplink = Uplink(client, open_identity(self.folder / "device", "camera"))
            request = InferRequest(name="tiny", version=version, data=picture(index), deadline_ms=deadline_ms)
            return (await uplink.infer(request)).prediction

    def restart_node(self) -> None:
        """SIGKILL it and start it again."""
        self.node.kill()
        self.node.start()

    def said(self) -> list[str]:
        """How the node got its answers, one after another."""
        log = (self.folder / "node.log").read_text()
        return re.findall(r"event=(infer_answered|infer_carried_up)", log)

    def kept(self, target: str) -> Path:
        """Where the node keeps a target."""
        return self.folder / "node" / "cache" / "targets" / target


@pytest.fixture
def options() -> tuple[str, ...]:
    """Of the node's command."""
    return ()


@pytest.fixture
def world(tmp_path: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("EDGELOOP_LOG", "DEBUG")
    folder = tmp_path / "cloud"
    found(CloudConfig(folder=folder), keys=tmp_path / "keys", url="http://127.0.0.1:0")
    serve = ("-m", "edgeloop", "cloud", "serve", "--json", "--dir", str(folder), "--port", "0")
    cloud = Process(*serve, log=tmp_path / "cloud.log")
    url = cloud.start()["url"]
    node = None
    try:
        with CloudApi(Operator(url=url, token=read_operator(folder / "operator.json").token)) as api:
            publish(make_bundle(tmp_path), api, targets_key=tmp_path / "keys" / "targets.pem")
            tokens = [api.make_join_token(JoinTokenRequest()).token for _ in range(2)]
        node = _node(tmp_path, url, tokens[0], options)
        node_url = node.start()["url"]
        joining = join_hub(
            tmp_path / "device",
            hub_url=node_url,
            join=parse_join_token(tokens[1]),
            device_id="camera",
            kind=Kind.DEVICE,
            profile=this_machine(),
        )
        asyncio.run(joining)
        yield World(tmp_path, cloud, node, node_url)
    finally:
        cloud.stop()
        if node is not None:
            node.stop()


def _node(folder: Path, url: str, token: str, options: tuple[str, ...]) -> Process:
    where = ("--dir", str(folder / "node"), "--hub", url, "--join", token, "--id", "gateway")
    how = ("--port", str(free_port()), "--longest-backoff-s", "0.3", "--json")
    return Process("-m", "edgeloop", "node", "run", *where, *how, *options, log=folder / "node.log")


def test_node_answers_and_goes_on_when_the_cloud_is_killed_and_the_node_starts_again(world: World) -> None:
    assert [world.ask(index=index).label for index in range(4)] == list(LABELS)
    world.cloud.kill()
    assert [world.ask(index=index).label for index in range(4)] == list(LABELS)
    world.restart_node()
    assert [world.ask(version, index=2).label for version in (None, "1.0.0")] == [LABELS[2]] * 2
    assert set(world.said()) == {"infer_answered"}


def test_tampered_file_in_the_nodes_cache_is_never_answered_from(world: World) -> None:
    world.ask()
    other = make_parts(damage=Damage.WEIGHTS)  # an engine runs it, and it answers otherwise
    model = world.kept(file_target(make_parts().manifest.variants[0].file))
    tampered = other.files[other.manifest.variants[0].file]
    write_durable(model, tampered)
    world.restart_node()
    assert world.ask().label == LABELS[0]
    assert digest(model.read_bytes()) == model.name, "it was fetched anew"
    write_durable(model, tampered)
    world.cloud.kill()
    world.restart_node()
    with pytest.raises(Unavailable):
        world.ask()


def test_unsigned_bundle_is_not_answered(world: World) -> None:
    world.ask()
    planted = make_parts(version="9.9.9")
    write_durable(world.kept(manifest_target(planted.manifest.ref)), to_json(planted.manifest))
    world.cloud.kill()
    with pytest.raises(Unavailable, match="never signed"):
        world.ask("9.9.9")
    assert world.ask().bundle == "tiny@1.0.0"


def test_question_that_cannot_be_answered_in_time_is_unavailable(world: World) -> None:
    with pytest.raises(Unavailable):
        world.ask(deadline_ms=1)
    assert world.ask().label == LABELS[0]


@pytest.mark.parametrize("options", [("--no-answer",)])
def test_node_that_may_not_answer_carries_up(world: World) -> None:
    assert world.ask(index=1).label == LABELS[1]
    assert set(world.said()) == {"infer_carried_up"}
    world.cloud.kill()
    with pytest.raises(Unavailable):
        world.ask(index=1)
