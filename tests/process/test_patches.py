"""Versions that are much like the one before, from a real cloud to real devices: straight, cut on the way, with patches
that are wrong, and through a node. All are processes, with a link between them that counts and means ill when told to.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

from builders import LABELS, Weights, make_bundle, quadrant_images, quadrant_weights
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.contracts.api import Gate, JoinTokenRequest, RolloutRequest
from edgeloop.contracts.messages import WatchBounds
from edgeloop.contracts.states import RolloutState, UpdateState
from edgeloop.runtime.input.images import encode_png
from edgeloop.toolchain.publish import publish
from edgeloop.transport.cloud_api import CloudApi, Operator, read_operator
from hostile_link import HostileLink, Reset, plainly, to
from processes import Process

DEADLINE_S = 60.0
FEATURES = 512
_BODY = np.random.default_rng(1).normal(0.0, 0.1, (64, FEATURES)).astype(np.float32)


def _with_last_layer(sharpness: float) -> Weights:
    """The brightest quadrant out of many features; only the last layer, 8 KB of 140, depends on the sharpness."""
    plain = quadrant_weights()
    wanted = plain.to_features.astype(np.float64) @ np.eye(len(LABELS)) * sharpness
    last = np.linalg.pinv(_BODY.astype(np.float64)) @ wanted
    return Weights(_BODY, last.astype(np.float32), np.zeros(len(LABELS), np.float32))


@dataclass
class World:
    """A cloud, and a link to it."""

    folder: Path
    api: CloudApi
    link: HostileLink
    stack: ExitStack

    def device(self, name: str, *, hub: str) -> None:
        """A device that sees a picture now and then."""
        spool = self.folder / f"{name}-spool"
        spool.mkdir()
        for index, image in enumerate(quadrant_images(40)):
            (spool / f"{index:03d}.png").write_bytes(encode_png(image))
        token = self.api.make_join_token(JoinTokenRequest()).token
        where = ("--dir", str(self.folder / name), "--hub", hub, "--join", token, "--id", name)
        how = ("--source", str(spool), "--longest-backoff-s", "0.2", "--json")
        self._start("device", "run", *where, *how, log=name)

    def node(self) -> str:
        """A node above the link; its address."""
        token = self.api.make_join_token(JoinTokenRequest()).token
        where = ("--dir", str(self.folder / "node"), "--hub", self.link.url, "--join", token, "--id", "gateway")
        return self._start("node", "run", *where, "--port", "0", "--no-answer", "--json", log="node")["url"]

    def _start(self, *arguments: str, log: str) -> dict[str, str]:
        process = Process("-m", "edgeloop", *arguments, log=self.folder / f"{log}.log")
        self.stack.callback(process.stop)
        return process.start()

    def roll_out(self, version: str, sharpness: float) -> int:
        """Publish a version and have every device confirm it; the bytes of its files that came over the link."""
        bundle = make_bundle(self.folder, version=version, weights=_with_last_layer(sharpness))
        publish(bundle, self.api, targets_key=self.folder / "keys" / "targets.pem")
        before = self.came_bytes()
        gate = Gate(watch=WatchBounds(min_readings=0))
        request = RolloutRequest(bundle=f"tiny@{version}", waves=("100%",), gate=gate)
        rollout = self.api.start_rollout(request).rollout_id
        _until(lambda: self.api.rollout(rollout).state is not RolloutState.RUNNING, f"the end of {version}'s rollout")
        view = self.api.rollout(rollout)
        assert {one.state for one in view.devices} == {UpdateState.CONFIRMED}, view
        return self.came_bytes() - before

    def came_bytes(self) -> int:
        """Of files and of offers."""
        return sum(size for path, size in self.link.sent_bytes.items() if path.startswith(("targets/", "patches/")))

    def patches(self) -> set[str]:
        """Where those lie that were offered."""
        offers = [msgspec.json.decode(data) for path, data in self.link.seen.items() if path.startswith("patches/")]
        return {f"targets/files/{offer['sha256']}" for offer in offers}

    def whole_bytes(self, version: str) -> int:
        """Of the version's archive: about what it would be without patches. Manifest and small files come with what is
        signed, and are not counted in `came_bytes`.
        """
        return (self.folder / f"tiny-{version}.edgeloop").stat().st_size


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        folder = tmp_path / "cloud"
        found(CloudConfig(folder=folder), keys=tmp_path / "keys", url="http://127.0.0.1:0")
        serving = ("-m", "edgeloop", "cloud", "serve", "--json", "--dir", str(folder), "--port", "0")
        cloud = Process(*serving, log=tmp_path / "cloud.log")
        stack.callback(cloud.stop)
        url = cloud.start()["url"]
        token = read_operator(folder / "operator.json").token
        api = stack.enter_context(CloudApi(Operator(url=url, token=token)))
        yield World(tmp_path, api, stack.enter_context(HostileLink(to(url))), stack)


def test_new_last_layer_costs_a_tenth_also_when_cut_and_a_wrong_patch_costs_the_file(world: World) -> None:
    world.device("cam", hub=world.link.url)
    world.roll_out("1.0.0", 20.0)
    whole_bytes = world.whole_bytes("1.0.0")
    assert whole_bytes > 130_000

    plain_bytes = world.roll_out("1.1.0", 21.0)
    assert world.patches()
    assert plain_bytes < 0.1 * whole_bytes

    world.link.send = sending = Reset(share=0.25, piece_bytes=512)
    cut_bytes = world.roll_out("1.2.0", 22.0)
    assert sending.resets > 0, "the link was bad"
    assert cut_bytes < 0.12 * whole_bytes
    world.link.send = plainly

    world.link.tamper = lambda path, data: bytes(len(data)) if path in world.patches() else data
    wrong_bytes = world.roll_out("1.3.0", 23.0)
    assert 0.85 * whole_bytes < wrong_bytes < 1.3 * whole_bytes
    world.link.tamper = lambda path, data: data

    world.link.forge = lambda path: b"<html>what?</html>" if path.startswith("patches/") else None
    assert world.roll_out("1.4.0", 24.0) > 0.85 * whole_bytes


def test_two_devices_behind_a_node_cost_one_patch(world: World) -> None:
    hub = world.node()
    for name in ("cam-1", "cam-2"):
        world.device(name, hub=hub)
    world.roll_out("1.0.0", 20.0)
    assert world.roll_out("1.1.0", 21.0) < 0.1 * world.whole_bytes("1.0.0")
    assert all(world.link.asked[path] <= 2 for path in world.patches()), "once, and once for its size"


def _until(is_true: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while not is_true():
        if time.monotonic() > until_s:
            raise AssertionError(f"{what} did not come about within {DEADLINE_S:.0f} s")
        time.sleep(0.05)
