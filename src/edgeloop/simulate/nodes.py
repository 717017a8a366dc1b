"""A process that holds many real nodes: `python -m edgeloop.simulate.nodes`, talked to in lines of JSON.

Each is what `edgeloop node run` runs, with folder, cache, outbox and port of its own; only the event loop is shared.
It ends when its standard input does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import httpx
import msgspec
import uvicorn

from edgeloop.contracts.codec import from_json
from edgeloop.contracts.join import Join
from edgeloop.contracts.states import Kind
from edgeloop.hub.serve import Listen, bind, server_config, url_of
from edgeloop.hub.waker import Waker
from edgeloop.node.app import make_app
from edgeloop.node.config import NodeConfig
from edgeloop.simulate.device import PROFILE
from edgeloop.simulate.link import BUNDLES
from edgeloop.simulate.worker import read_lines, say
from edgeloop.transport.membership import join_hub, open_client, open_identity
from edgeloop.transport.uplink import Uplink

_TELL_EVERY_S = 1.0


class Carriers(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes to be run: how many, below which hub, in which folder."""

    name: str
    nodes: int
    hub_url: str
    join: Join
    folder: str
    ca: str | None = None


class Carrying(msgspec.Struct, frozen=True):
    """Where the nodes can be reached, once all of them can."""

    urls: tuple[str, ...]


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """What the nodes fetched from above since they last said it: bytes of bundles' files, bytes of metadata."""

    bundle_bytes: int
    metadata_bytes: int


class _Counter:
    """What comes from above, by the length that each answer states."""

    def __init__(self) -> None:
        self.bundle_bytes = 0
        self.metadata_bytes = 0

    async def count(self, response: httpx.Response) -> None:
        """An httpx hook."""
        size_bytes = int(response.headers.get("content-length", "0"))
        if response.request.url.path.startswith(BUNDLES):
            self.bundle_bytes += size_bytes
        elif response.request.url.path.startswith(("/v1/fetch/", "/v1/trust")):
            self.metadata_bytes += size_bytes

    async def tell(self) -> None:
        """Say it once a second, until cancelled."""
        while True:
            await asyncio.sleep(_TELL_EVERY_S)
            say(Carried(bundle_bytes=self.bundle_bytes, metadata_bytes=self.metadata_bytes))
            self.bundle_bytes = self.metadata_bytes = 0


async def run_nodes(wanted: Carriers, lines: Callable[[], Awaitable[str]]) -> None:
    """Run them until there are no more lines."""
    counter = _Counter()
    async with AsyncExitStack() as stack:
        urls = [await _start(stack, wanted, number, counter) for number in range(wanted.nodes)]
        say(Carrying(tuple(urls)))
        telling = asyncio.create_task(counter.tell())
        while await lines():
            pass
        telling.cancel()


async def _start(stack: AsyncExitStack, wanted: Carriers, number: int, counter: _Counter) -> str:
    """Enrol one, serve it, and have it end with the stack."""
    config = NodeConfig(folder=Path(wanted.folder) / f"node-{number}", listen=Listen(), answers=False)
    name = f"{wanted.name}-node-{number}"
    member = await join_hub(
        config.folder,
        hub_url=wanted.hub_url,
        join=wanted.join,
        device_id=name,
        kind=Kind.NODE,
        profile=PROFILE,
        ca=wanted.ca,
    )
    client = await stack.enter_async_context(open_client(member.hub_url, ca=member.ca))
    client.event_hooks = {"response": [counter.count]}
    waker = Waker()
    app = make_app(config, member, Uplink(client, open_identity(config.folder, name)), waker)
    handle = bind(config.listen)
    server = _Server(server_config(app, config.listen))
    serving = asyncio.create_task(server.serve(sockets=[handle]))

    async def end() -> None:
        waker.release()
        server.should_exit = True
        await asyncio.wait([serving])

    stack.push_async_callback(end)
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    return url_of(handle)


class _Server(uvicorn.Server):
    """uvicorn without an eye on signals: there are many in this process, and it ends with its input."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """See uvicorn."""
        yield


async def _main() -> None:
    lines = await read_lines()
    wanted = from_json((await lines()).encode(), Carriers, what="the nodes")
    await run_nodes(wanted, lines)


if __name__ == "__main__":
    from edgeloop.crowd import expect_a_crowd
    from edgeloop.simulate.program import run_quietly

    expect_a_crowd()
    run_quietly(_main())
