"""A whole house in one process: cloud, node and devices over an in-memory transport.

Everything but the wire is real: Litestar's routes, signatures, TUF, SQLite, the device's agent with its inference
thread. `Wire` carries HTTP between them as ASGI calls and can be cut, which is how the cloud goes away.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from builders import LABELS, SIDE_PX, Weights, quadrant_images
from edgeloop.bundle.durable import write_durable
from edgeloop.cloud.app import make_app as make_cloud_app
from edgeloop.cloud.app import open_stores
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.cloud.hub import Stores
from edgeloop.contracts.api import JoinTokenRequest
from edgeloop.contracts.join import enrol_statement, parse_join_token
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.messages import EnrolRequest
from edgeloop.contracts.states import Kind
from edgeloop.device.agent import Agent
from edgeloop.device.config import DeviceConfig
from edgeloop.hub.waker import Waker
from edgeloop.node.app import make_app as make_node_app
from edgeloop.node.config import NodeConfig
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.profile import this_machine
from edgeloop.transport.cloud_api import CloudApi, read_operator
from edgeloop.transport.identity import Identity, load_or_make_key
from edgeloop.transport.membership import Membership
from edgeloop.transport.uplink import Uplink

T = TypeVar("T")


class Wire(httpx.AsyncBaseTransport):
    """HTTP to an app in this process; `is_cut` makes it a dead link."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        self.is_cut = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_cut:
            raise httpx.ConnectError("the wire is cut", request=request)
        response = await self._inner.handle_async_request(request)
        if self.is_cut:
            raise httpx.ReadError("the wire was cut", request=request)
        return response


class _FromThread(httpx.BaseTransport):
    """The same wire for a blocking client on another thread."""

    def __init__(self, wire: Wire, loop: asyncio.AbstractEventLoop) -> None:
        self._wire = wire
        self._loop = loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def carry() -> tuple[httpx.Response, bytes]:
            response = await self._wire.handle_async_request(request)
            return response, await response.aread()

        response, content = asyncio.run_coroutine_threadsafe(carry(), self._loop).result(30)
        return httpx.Response(response.status_code, headers=response.headers, content=content, request=request)


@dataclass
class House:
    """What a test works with. api: used on threads, through `ask`."""

    folder: Path
    stores: Stores
    api: CloudApi
    cloud_wire: Wire
    node_wire: Wire
    agents: dict[str, Agent] = field(default_factory=dict)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    @property
    def targets_key(self) -> Path:
        """The key that signs what exists."""
        return self.folder / "keys" / "targets.pem"

    async def ask(self, call: Callable[[], T]) -> T:
        """A blocking call of the API, off the event loop that answers it."""
        return await asyncio.to_thread(call)

    async def until(self, is_true: Callable[[], Awaitable[bool]], what: str, *, timeout_s: float = 60.0) -> None:
        """Look again and again, with an end."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await is_true():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"{what} did not come about within {timeout_s:.0f} s") from None

    async def add_device(self, device_id: str, *, through: Wire) -> Path:
        """Enrol a device and put its agent to work; returns the folder that its camera writes to."""
        folder = self.folder / device_id
        spool = folder / "spool"
        spool.mkdir(parents=True)
        member, uplink = await enrol(self, folder, device_id, Kind.DEVICE, through)
        config = DeviceConfig(
            folder=folder,
            source=str(spool),
            engines=(EngineName.ONNXRUNTIME,),
            send_every_s=0.02,
            longest_backoff_s=0.2,
            sync_wait_s=5.0,
        )
        agent = Agent(config, member, uplink, profile=this_machine())
        self.agents[device_id] = agent
        task = asyncio.create_task(agent.run())
        self._stack.push_async_callback(_end, task)
        return spool


@asynccontextmanager
async def open_house(folder: Path) -> AsyncIterator[House]:
    """A cloud and a node at work; devices are added by the test."""
    config = CloudConfig(folder=folder / "cloud", tick_s=0.05)
    found(config, keys=folder / "keys", url="http://cloud")
    stores = open_stores(config)
    waker = Waker()
    cloud_app = make_cloud_app(config, stores, waker)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(cloud_app.lifespan())
        stack.callback(waker.release)
        cloud_wire = Wire(cloud_app)
        operator = read_operator(folder / "cloud" / "operator.json")
        blocking = httpx.Client(
            transport=_FromThread(Wire(cloud_app), asyncio.get_running_loop()),
            base_url="http://cloud",
            headers={"authorization": f"Bearer {operator.token}"},
        )
        house = House(folder, stores, CloudApi(operator, client=blocking), cloud_wire, cloud_wire)
        node_config = NodeConfig(folder=folder / "node", send_every_s=0.02, longest_backoff_s=0.2, sync_wait_s=5.0)
        member, uplink = await enrol(house, node_config.folder, "gateway", Kind.NODE, cloud_wire)
        node_waker = Waker()
        node_app = make_node_app(node_config, member, uplink, node_waker)
        await stack.enter_async_context(node_app.lifespan())
        stack.callback(node_waker.release)
        house.node_wire = Wire(node_app)
        await stack.enter_async_context(house._stack)
        yield house


async def enrol(house: House, folder: Path, name: str, kind: Kind, through: Wire) -> tuple[Membership, Uplink]:
    """Enrol over a wire with a token of its own."""
    token = await house.ask(lambda: house.api.make_join_token(JoinTokenRequest()))
    join = parse_join_token(token.token)
    identity = Identity(name, load_or_make_key(folder / "device.pem"))
    client = httpx.AsyncClient(transport=through, base_url="http://hub")
    uplink = Uplink(client, identity)
    reply = await uplink.enrol(
        EnrolRequest(
            device_id=name,
            kind=kind,
            join_secret=join.secret,
            public_key=identity.public_key,
            profile=this_machine(),
            possession=identity.sign_statement(enrol_statement(name, join.secret, identity.public_key)),
        )
    )
    join.check_roots(reply.images_root, reply.director_root)
    member = Membership(
        device_id=name,
        kind=kind,
        hub_url="http://hub",
        images_root=reply.images_root,
        director_root=reply.director_root,
    )
    return member, uplink


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return


# ---- what the cameras see, and learning from it


def glare_images(count: int, *, seed: int) -> NDArray[np.uint8]:
    """What a camera with a lamp in view sees: the label's quadrant is lit in its outer corner only, and the next
    quadrant glares from the middle, so that mean brightness names the wrong one. Number i is label i % 4."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 90, (count, SIDE_PX, SIDE_PX), dtype=np.uint8)
    for index, image in enumerate(images):
        image[_corner(index % 4)] = 230
        image[_middle((index + 1) % 4)] = 255
    return images


def learn(images: NDArray[np.uint8], labels: NDArray[np.int64], *, steps: int = 400) -> Weights:
    """Softmax regression on pixels by gradient descent, in NumPy: a real, if small, training."""
    pixels = images.reshape(len(images), -1).astype(np.float64) / 255.0
    wanted = np.eye(len(LABELS))[labels]
    matrix = np.zeros((pixels.shape[1], len(LABELS)))
    for _ in range(steps):
        logits = pixels @ matrix
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        matrix -= 0.5 * pixels.T @ (raised / raised.sum(axis=1, keepdims=True) - wanted) / len(images)
    width = pixels.shape[1]
    return Weights(
        np.eye(width, dtype=np.float32), (4 * matrix).astype(np.float32), np.zeros(len(LABELS), dtype=np.float32)
    )


def clean_images(count: int, *, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Quadrant images with their labels."""
    return quadrant_images(count, seed=seed), np.arange(count) % len(LABELS)


def show(spool: Path, images: NDArray[np.uint8], *, prefix: str) -> None:
    """Put frames before a camera. Frame names carry the label, as a person would see it: PREFIX-NUMBER-LABEL.png."""
    for index, image in enumerate(images):
        write_durable(spool / f"{prefix}-{index:04d}-{LABELS[index % 4]}.png", encode_png(image))


def _corner(quadrant: int) -> tuple[slice, slice]:
    row, column = divmod(quadrant, 2)
    return slice(6 * row, 6 * row + 2), slice(6 * column, 6 * column + 2)


def _middle(quadrant: int) -> tuple[slice, slice]:
    row, column = divmod(quadrant, 2)
    return slice(1 + 3 * row, 4 + 3 * row), slice(1 + 3 * column, 4 + 3 * column)
