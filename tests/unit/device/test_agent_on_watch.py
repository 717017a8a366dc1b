"""What an agent does with a version on watch while its hub has news and no answers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np

from builders import make_parts, quadrant_images, quadrant_weights
from edgeloop.contracts.codec import to_msgpack
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.messages import Desired, SyncReply, WatchBounds
from edgeloop.contracts.states import Kind, UpdateState
from edgeloop.device.agent import Agent
from edgeloop.device.config import DeviceConfig
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.profile import this_machine
from edgeloop.transport.identity import Identity, load_or_make_key
from edgeloop.transport.membership import Membership
from edgeloop.transport.uplink import Uplink
from updating import Folder, assigned, with_first

ROLLED = replace(quadrant_weights(), to_logits=np.roll(quadrant_weights().to_logits, 1, axis=1))
"""A sound model by its own golden samples, whose every answer is another than the first version's."""


class Nudging:
    """A hub that tells of a newer assignment and answers nothing else. was_asked: what is assigned."""

    def __init__(self, generation: int) -> None:
        self.was_asked = False
        self._reply = SyncReply(desired=(Desired(device_id="cam", generation=generation),))

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        if request.url.path.endswith("/sync"):
            await asyncio.sleep(0.05)
            return httpx.Response(200, content=to_msgpack(self._reply))
        self.was_asked |= not request.url.path.endswith("/send")
        raise httpx.ConnectError("the cloud is away", request=request)


@asynccontextmanager
async def _at_work(folder: Folder, hub: Nudging, source: Path) -> AsyncIterator[Agent]:
    member = Membership(device_id="cam", kind=Kind.DEVICE, hub_url="http://h", images_root=b"i", director_root=b"d")
    config = DeviceConfig(
        folder=folder.device_folder,
        source=str(source),
        engines=(EngineName.ONNXRUNTIME,),
        race_s=0.0,
        longest_backoff_s=0.1,
    )
    async with httpx.AsyncClient(transport=httpx.MockTransport(hub), base_url="http://h") as client:
        identity = Identity("cam", load_or_make_key(folder.device_folder / "device.pem"))
        agent = Agent(config, member, Uplink(client, identity), profile=this_machine())
        running = asyncio.create_task(agent.run())
        try:
            yield agent
        finally:
            running.cancel()
            await asyncio.wait([running])


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not is_so():
            await asyncio.sleep(0.02)


def test_version_on_watch_is_judged_while_what_is_newer_cannot_be_had(folder: Folder, tmp_path: Path) -> None:
    second = folder.write(make_parts(version="1.1.0", weights=ROLLED))
    device = with_first(folder, second)
    watch = WatchBounds(min_readings=5, max_disagreement=0.1)
    device.take_until(UpdateState.ACTIVE, assigned(second, generation=2, watch=watch))
    folder.close()
    (spool := tmp_path / "spool").mkdir()
    hub = Nudging(generation=9)

    async def judged() -> str:
        async with _at_work(folder, hub, spool) as agent:
            await _until(lambda: hub.was_asked)
            for index, image in enumerate(quadrant_images(8)):
                (spool / f"{index}.png").write_bytes(encode_png(image))
            await _until(lambda: agent.report().active == "tiny@1.0.0")
            update = agent.report().update
            assert update is not None
            return update.reason

    assert "differ from the old version" in asyncio.run(judged())
