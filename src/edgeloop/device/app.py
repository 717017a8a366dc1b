"""The device, wired: membership, uplink, source, agent, in one process."""

import asyncio
import signal
from collections.abc import Callable

from edgeloop.device.agent import Agent, open_outbox
from edgeloop.device.config import DeviceConfig
from edgeloop.device.sources import FolderSource
from edgeloop.runtime.profile import this_machine
from edgeloop.transport.membership import Membership, open_client, open_identity, read_membership
from edgeloop.transport.uplink import Uplink


def run_device(config: DeviceConfig, *, on_ready: Callable[[Membership], None]) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises NotFound before enrolment, or if the source is missing."""
    member = read_membership(config.folder)
    asyncio.run(_run(config, member, on_ready))


async def _run(config: DeviceConfig, member: Membership, on_ready: Callable[[Membership], None]) -> None:
    async with open_client(member.hub_url, ca=member.ca) as client:
        uplink = Uplink(client, open_identity(config.folder, member.device_id))
        agent = Agent(config, member, uplink, _source(config, member), profile=this_machine())
        task = asyncio.create_task(agent.run())
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, task.cancel)
        on_ready(member)
        try:
            await task
        except asyncio.CancelledError:
            return


def _source(config: DeviceConfig, member: Membership) -> FolderSource | None:
    if config.source is None:
        return None
    outbox = open_outbox(config.folder, member.device_id)
    after = outbox.last_source()
    outbox.close()
    return FolderSource(config.source, rate_hz=config.rate_hz, after=after)
