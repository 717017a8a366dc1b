"""The device, wired: membership, uplink, source, agent, in one process."""

import asyncio
import os
import signal
from collections.abc import Callable

from edgeloop.device.agent import Agent
from edgeloop.device.config import DeviceConfig
from edgeloop.device.crash import arm
from edgeloop.device.lock import only_agent
from edgeloop.runtime.profile import this_machine
from edgeloop.runtime.sources.names import check_lasting
from edgeloop.supervisor import Supervisor
from edgeloop.transport.membership import Membership, open_client, open_identity, read_membership
from edgeloop.transport.seal import open_keyring
from edgeloop.transport.uplink import Uplink


def run_device(config: DeviceConfig, *, on_ready: Callable[[Membership], None]) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises NotFound before enrolment, InvalidInput if what it is told to sense
    can never be a source, Refused if another agent is at work in its folder."""
    if config.source is not None:
        check_lasting(config.source)
    member = read_membership(config.folder)
    with only_agent(config.folder):
        asyncio.run(_run(config, member, on_ready))


async def _run(config: DeviceConfig, member: Membership, on_ready: Callable[[Membership], None]) -> None:
    keyring = None if config.sample_key is None else open_keyring(config.sample_key, os.environ)
    async with open_client(member.hub_url, ca=member.ca) as client:
        uplink = Uplink(client, open_identity(config.folder, member.device_id))
        agent = Agent(config, member, uplink, profile=this_machine(), crash=arm(config.folder), keyring=keyring)
        task = asyncio.create_task(agent.run())
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, end_once, task)
        on_ready(member)
        supervisor = Supervisor(os.environ)
        supervisor.ready()
        try:
            await task
        except asyncio.CancelledError:
            return
        finally:
            supervisor.ending()


def end_once(task: "asyncio.Task[None]") -> None:
    """Cancel it; a second signal must not cut into what the first one makes it finish."""
    if not task.cancelling():
        task.cancel()
