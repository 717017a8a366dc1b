"""The whole loop in one process and a few seconds: deliver, run, lose the cloud, learn, deliver again, refuse."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from builders import LABELS, Damage, make_bundle, quadrant_weights
from edgeloop.contracts.api import Gate, LabelRequest, RolloutRequest, RolloutView
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.messages import Reading, WatchBounds
from edgeloop.contracts.states import RolloutState, UpdateState
from edgeloop.device.agent import open_outbox
from edgeloop.runtime.input.images import decode_image
from edgeloop.runtime.load import load
from edgeloop.toolchain.publish import publish
from house import House, clean_images, glare_images, learn, open_house, show

CLEAN, GLARE, DIRECT = "hall", "door", "yard"
NOW, LATER = 120, 60


def test_a_fleet_learns_from_a_drifted_camera_and_refuses_a_damaged_version(tmp_path: Path) -> None:
    asyncio.run(_whole_loop(tmp_path))


async def _whole_loop(folder: Path) -> None:
    async with open_house(folder) as house:
        spools = {
            CLEAN: await house.add_device(CLEAN, through=house.node_wire),
            GLARE: await house.add_device(GLARE, through=house.node_wire),
            DIRECT: await house.add_device(DIRECT, through=house.cloud_wire),
        }
        first = await _deliver_first(house, spools)
        await _cloud_goes_away_and_comes_back(house, spools)
        drifted = {row.device_id for row in await house.ask(lambda: house.api.drift("tiny@1.0.0")) if row.drifted}
        assert drifted == {GLARE}
        second = await _learn_and_deliver_second(house, spools)
        assert _accuracy(first, seed=99) < 0.5 < 0.95 < _accuracy(second, seed=99)
        await _offer_damaged_third(house)
        await _everything_arrived_exactly_once(house)


async def _deliver_first(house: House, spools: dict[str, Path]) -> Path:
    """The first version goes out in two waves, and every device takes it after replaying its golden samples."""
    bundle = make_bundle(house.folder, version="1.0.0", weights=quadrant_weights())
    for name, spool in spools.items():
        show(spool, _scene(name, NOW // 2, seed=len(name)), prefix="a")
    view = await _roll_out(house, bundle, "tiny@1.0.0")
    assert view.state is RolloutState.COMPLETED
    assert view.waves == (1, 3)
    assert {device.state for device in view.devices} == {UpdateState.CONFIRMED}
    return bundle


async def _cloud_goes_away_and_comes_back(house: House, spools: dict[str, Path]) -> None:
    """With the cloud's wire cut, inference goes on; afterwards everything comes up."""
    house.cloud_wire.is_cut = True
    for name, spool in spools.items():
        show(spool, _scene(name, NOW // 2, seed=7 + len(name)), prefix="b")

    async def all_read() -> bool:
        return all(agent.report().health.readings == NOW for agent in house.agents.values())

    await house.until(all_read, "reading every frame without the cloud")
    house.cloud_wire.is_cut = False
    await house.until(lambda: _arrived(house, NOW), "every reading in the cloud")


async def _learn_and_deliver_second(house: House, spools: dict[str, Path]) -> Path:
    """People label what came up; the second version learns from old and new; it runs beside the first before it
    is trusted, and nowhere but on the drifted device may it disagree."""
    samples = await house.ask(lambda: house.api.samples(labelled=False))
    assert {sample.device_id for sample in samples} >= {GLARE}
    images, labels = clean_images(200, seed=3)
    seen, said = [], []
    for sample in samples:
        label = sample.source.removesuffix(".png").rpartition("-")[2]
        request = LabelRequest(label=label, by="a person")
        await house.ask(lambda one=sample, word=request: house.api.label(one.sample_id, word))
        data = await house.ask(lambda one=sample: house.api.sample_data(one.sample_id))
        seen.append(decode_image(data, what=sample.sample_id))
        said.append(LABELS.index(label))
    repeats = 12
    weights = learn(
        np.concatenate([images, *([np.array(seen)] * repeats)]), np.concatenate([labels, *([np.array(said)] * repeats)])
    )
    bundle = make_bundle(house.folder, version="2.0.0", weights=weights)
    view = await _roll_out(house, bundle, "tiny@2.0.0", spools=spools)
    assert view.state is RolloutState.COMPLETED, view.reason
    assert all("differ from the old version" in device.reason for device in view.devices)
    return bundle


async def _offer_damaged_third(house: House) -> None:
    """Well signed and well packed, but its weights changed after its proof was made."""
    bundle = make_bundle(house.folder, version="3.0.0", damage=Damage.WEIGHTS)
    view = await _roll_out(house, bundle, "tiny@3.0.0")
    assert view.state is RolloutState.ABORTED
    assert "golden samples" in view.reason
    assert [device.state for device in view.devices if device.state] == [UpdateState.REFUSED]
    assert {agent.report().active for agent in house.agents.values()} == {"tiny@2.0.0"}


async def _everything_arrived_exactly_once(house: House) -> None:
    await house.until(lambda: _arrived(house, NOW + LATER), "the last readings")
    for name in house.agents:
        outbox = open_outbox(house.folder / name, name)
        own = [(event.epoch, event.sequence) for event in outbox.events() if isinstance(event.body, Reading)]
        outbox.close()
        rows = await house.ask(lambda one=name: house.api.readings(one, limit=1000))
        assert [(row.epoch, row.sequence) for row in rows] == own
        assert len({row.reading.source for row in rows}) == len(rows) == NOW + LATER


async def _roll_out(house: House, bundle: Path, version: str, *, spools: dict[str, Path] | None = None) -> RolloutView:
    """Publish, start, follow to the end; `spools`: what to show each camera once the new version is on watch."""
    await house.ask(lambda: publish(bundle, house.api, targets_key=house.targets_key))
    gate = Gate(watch=WatchBounds(min_readings=10, max_disagreement=0.2, max_latency_ratio=50.0, deadline_s=10.0))
    request = RolloutRequest(bundle=version, waves=("1", "100%"), gate=gate)
    view = await house.ask(lambda: house.api.start_rollout(request))
    dark = dict(spools or {})

    async def is_over() -> bool:
        nonlocal view
        for name in list(dark):
            update = house.agents[name].report().update
            if update is not None and (update.bundle, update.state) == (version, UpdateState.ACTIVE):
                show(dark.pop(name), _scene(name, LATER, seed=40 + len(name)), prefix="c")
        view = await house.ask(lambda: house.api.rollout(view.rollout_id))
        return view.state is not RolloutState.RUNNING

    await house.until(is_over, f"the end of the rollout of {version}")
    return view


async def _arrived(house: House, readings: int) -> bool:
    counts = await house.ask(house.api.event_counts)
    return sum(row.readings for row in counts) == readings * len(house.agents)


def _scene(device_id: str, count: int, *, seed: int) -> np.ndarray:
    return glare_images(count, seed=seed) if device_id == GLARE else clean_images(count, seed=seed)[0]


def _accuracy(bundle: Path, *, seed: int) -> float:
    predictor = load(bundle)
    labels = [predictor.predict(image).label for image in glare_images(200, seed=seed)]
    predictor.close()
    return float(np.mean([label == LABELS[index % 4] for index, label in enumerate(labels)]))


def test_a_new_desired_state_reaches_a_device_behind_a_node_long_before_its_poll_ends(tmp_path: Path) -> None:
    asyncio.run(_long_poll(tmp_path))


async def _long_poll(folder: Path) -> None:
    async with open_house(folder) as house:
        await house.add_device(CLEAN, through=house.node_wire)
        bundle = make_bundle(house.folder, version="1.0.0")
        await house.ask(lambda: publish(bundle, house.api, targets_key=house.targets_key))

        async def reported() -> bool:
            devices = await house.ask(house.api.devices)
            return all(device.last_seen_s is not None for device in devices)

        await house.until(reported, "the first sync of node and device")
        loop = asyncio.get_running_loop()
        before_s = loop.time()
        await house.ask(lambda: house.api.start_rollout(RolloutRequest(bundle="tiny@1.0.0", waves=("100%",))))

        async def heard() -> bool:
            return house.agents[CLEAN].report().update is not None

        await house.until(heard, "the device hearing of it")
        # The long-polls are held for 5 s; only being woken can be this quick.
        assert loop.time() - before_s < 2.5


def test_the_wire_carries_nothing_once_it_is_cut(tmp_path: Path) -> None:
    """The stand-in for a dead link must be one, or the flow above would show nothing."""

    async def enrol_over_a_cut_wire() -> None:
        async with open_house(tmp_path) as house:
            house.node_wire.is_cut = True
            with pytest.raises(Unavailable, match="the wire is cut"):
                await house.add_device("lost", through=house.node_wire)

    asyncio.run(enrol_over_a_cut_wire())
