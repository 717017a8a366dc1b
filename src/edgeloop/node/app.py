"""The node, wired: a hub below, an uplink above, in one process."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from litestar import Litestar

from edgeloop.contracts.messages import Alert
from edgeloop.hub.proof import ProofChecker
from edgeloop.hub.routes import error_handlers, hub_router
from edgeloop.hub.serve import bind, loop_factory, serve
from edgeloop.hub.waker import Waker
from edgeloop.node.answer import Answering
from edgeloop.node.cache import Cache
from edgeloop.node.config import NodeConfig
from edgeloop.node.hub import NodeHub
from edgeloop.node.signed import SignedModels
from edgeloop.supervisor import Supervisor
from edgeloop.transport.budget import Budget
from edgeloop.transport.membership import Membership, open_client, open_identity, read_membership
from edgeloop.transport.metering import Meter
from edgeloop.transport.reopen import keep_what_is_readable, open_or_begin_anew
from edgeloop.transport.seal import open_keyring
from edgeloop.transport.sender import Sender
from edgeloop.transport.syncing import Pace, SyncLoop
from edgeloop.transport.uplink import Uplink

_TELL_EVERY_S = 1.0
"""What a node's devices say within this time goes up together: in a rollout all of them have something to say."""


def make_app(config: NodeConfig, member: Membership, uplink: Uplink, waker: Waker) -> Litestar:
    """The ASGI app of an enrolled node; its loops towards the hub above run with it."""
    keep, damage = keep_what_is_readable(config.folder / "node.db")
    keyring = None if config.sample_key is None else open_keyring(config.sample_key, os.environ)
    outbox = open_or_begin_anew(config.folder / "outbox.db", member.device_id, bounds=config.outbox, keyring=keyring)
    budget = Budget(keep, limit_bytes=config.day_bytes, begins_h=config.day_begins_h)
    meter = Meter(budget, on_wait=lambda: syncing.changed())
    cache = Cache(config.folder / "cache", uplink, meter)
    models = SignedModels(cache, member, config.folder / "trust") if config.answers else None
    answering = Answering(uplink, models)
    hub = NodeHub(
        uplink,
        keep=keep,
        cache=cache,
        outbox=outbox,
        answering=answering,
        waker=waker,
        budget=budget,
        meter=meter,
    )
    if damage:
        lost = f"This node knows {hub.device_count():,} devices; one that it does not know any more must enrol again."
        outbox.append([Alert(what="storage", detail=f"{damage} {lost}")], at_ms=int(time.time() * 1000))
    syncing = SyncLoop(
        uplink,
        reports=hub.reports,
        known=hub.known,
        on_desired=hub.on_desired,
        on_failed=hub.on_sync_failed,
        pace=Pace(config.sync_wait_s, config.longest_backoff_s, tell_every_s=_TELL_EVERY_S),
    )
    hub.sync_loop = syncing
    sender = Sender(outbox, uplink, every_s=config.send_every_s, longest_wait_s=config.longest_backoff_s, budget=budget)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(syncing.run()), asyncio.create_task(sender.run())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            await answering.close()
            await hub.close()
            await cache.close()
            budget.close()
            outbox.close()
            keep.close()

    return Litestar(
        route_handlers=[
            hub_router(hub, ProofChecker(clock=lambda: time.time() + uplink.clock_offset_s), config.limits)
        ],
        exception_handlers=error_handlers(),
        lifespan=[lifespan],
        openapi_config=None,
        logging_config=None,
    )


def run_node(config: NodeConfig, *, on_ready: Callable[[str], None]) -> None:
    """Serve until told to stop. Raises NotFound before enrolment, Unavailable if the port is taken."""
    member = read_membership(config.folder)
    handle = bind(config.listen)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_run(config, member, handle, on_ready=on_ready))
    finally:
        handle.close()


async def _run(
    config: NodeConfig, member: Membership, handle: socket.socket, *, on_ready: Callable[[str], None]
) -> None:
    async with open_client(member.hub_url, ca=member.ca) as client:
        uplink = Uplink(client, open_identity(config.folder, member.device_id))
        waker = Waker()
        app = make_app(config, member, uplink, waker)
        await serve(
            app, handle, config.listen, on_ready=on_ready, on_ending=waker.release, supervisor=Supervisor(os.environ)
        )
