"""A device with a microphone: its version arrives, it hears, and what is worth labelling comes up as sound."""

import asyncio
from pathlib import Path

import numpy as np

from builders import pack
from edgeloop.contracts.api import Gate, LabelRequest, RolloutRequest
from edgeloop.contracts.messages import Sample, WatchBounds
from edgeloop.contracts.states import RolloutState, UpdateState
from edgeloop.device.agent import open_outbox
from edgeloop.runtime.input.wav import decode_wav, encode_wav
from edgeloop.toolchain.publish import publish
from house import House, open_house
from sensed import LABELS, RATE_HZ, sound, sound_parts

HALL = "hall"
CLIPS = 60


def test_sounds_that_a_device_heard_are_fetched_and_labelled_in_the_cloud(tmp_path: Path) -> None:
    asyncio.run(_hear_and_label(tmp_path))


async def _hear_and_label(folder: Path) -> None:
    async with open_house(folder) as house:
        spool = await house.add_device(HALL, through=house.node_wire)
        clips = [sound(LABELS[index % 2], LABELS[index % 3 % 2], seed=100 + index) for index in range(CLIPS)]
        for index, clip in enumerate(clips):
            (spool / f"{index:03d}.wav").write_bytes(encode_wav(clip, RATE_HZ))
        await _roll_out(house, pack(sound_parts(), folder))
        agent = house.agents[HALL]

        async def all_heard() -> bool:
            return agent.report().health.readings == 2 * CLIPS

        await house.until(all_heard, "hearing every window")
        await house.until(lambda: _all_came_up(house), "what was sent in the cloud")
        view = (await house.ask(house.api.samples))[0]
        name, _, start_s = view.source.removesuffix("s").partition(".wav@")
        start = round(float(start_s) * RATE_HZ)
        heard = decode_wav(await house.ask(lambda: house.api.sample_data(view.sample_id)))
        np.testing.assert_array_equal(heard.samples, clips[int(name)][start : start + 400])
        assert (view.media, heard.rate_hz) == ("audio/wav", RATE_HZ)
        labelled = await house.ask(lambda: house.api.label(view.sample_id, LabelRequest(label="first", by="a person")))
        assert labelled.label == "first"


async def _roll_out(house: House, bundle: Path) -> None:
    await house.ask(lambda: publish(bundle, house.api, targets_key=house.targets_key))
    gate = Gate(watch=WatchBounds(min_readings=5, deadline_s=10.0))
    view = await house.ask(lambda: house.api.start_rollout(RolloutRequest(bundle="tiny@1.0.0", gate=gate)))

    async def is_over() -> bool:
        nonlocal view
        view = await house.ask(lambda: house.api.rollout(view.rollout_id))
        return view.state is not RolloutState.RUNNING

    await house.until(is_over, "the rollout's end")
    assert {device.state for device in view.devices} == {UpdateState.CONFIRMED}, view.reason


async def _all_came_up(house: House) -> bool:
    outbox = open_outbox(house.folder / HALL, HALL)
    sent = sum(isinstance(event.body, Sample) for event in outbox.events())
    outbox.close()
    return len(await house.ask(house.api.samples)) == sent > 0
