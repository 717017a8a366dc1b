"""A rollout that a person aborts reaches a device that has the version on watch."""

import asyncio
from pathlib import Path

from builders import make_bundle, quadrant_weights
from edgeloop.contracts.api import Gate, RolloutRequest
from edgeloop.contracts.messages import Alert, WatchBounds
from edgeloop.contracts.states import RolloutState, UpdateState
from edgeloop.device.agent import open_outbox
from edgeloop.toolchain.publish import publish
from house import House, open_house

AT_ONCE = WatchBounds(min_readings=0)
FOR_LONG = WatchBounds(min_readings=1000, deadline_s=3600.0)


def test_abort_takes_a_version_on_watch_back(tmp_path: Path) -> None:
    asyncio.run(_abort(tmp_path))


async def _abort(folder: Path) -> None:
    async with open_house(folder) as house:
        await house.add_device("hall", through=house.cloud_wire)
        first = await _begin(house, "1.0.0", AT_ONCE)

        async def is_done() -> bool:
            return (await house.ask(lambda: house.api.rollout(first))).state is RolloutState.COMPLETED

        await house.until(is_done, "the first version", timeout_s=120)
        second = await _begin(house, "1.1.0", FOR_LONG)
        await house.until(lambda: _has(house, UpdateState.ACTIVE), "1.1.0 on watch", timeout_s=120)
        assert house.agents["hall"].report().active == "tiny@1.1.0"
        await house.ask(lambda: house.api.abort_rollout(second, "a person said so"))

        async def is_back() -> bool:
            update = house.agents["hall"].report().update
            return update is not None and (update.bundle, update.state) == ("tiny@1.0.0", UpdateState.CONFIRMED)

        await house.until(is_back, "the way back", timeout_s=120)
        report = house.agents["hall"].report()
        assert (report.active, report.previous) == ("tiny@1.0.0", None), "it went back, and was not brought there anew"
        outbox = open_outbox(folder / "hall", "hall")
        alerts = [event.body for event in outbox.events() if isinstance(event.body, Alert)]
        outbox.close()
        assert [(one.what, one.detail) for one in alerts] == [
            (UpdateState.ROLLED_BACK, "tiny@1.1.0: something else is wanted of this device now")
        ]


async def _begin(house: House, version: str, watch: WatchBounds) -> str:
    weights = quadrant_weights(sharpness=20.0 + float(version[2]))
    bundle = make_bundle(house.folder, version=version, weights=weights)
    await house.ask(lambda: publish(bundle, house.api, targets_key=house.targets_key))
    request = RolloutRequest(bundle=f"tiny@{version}", waves=("100%",), gate=Gate(watch=watch))
    return (await house.ask(lambda: house.api.start_rollout(request))).rollout_id


async def _has(house: House, state: UpdateState) -> bool:
    update = house.agents["hall"].report().update
    return update is not None and (update.bundle, update.state) == ("tiny@1.1.0", state)
