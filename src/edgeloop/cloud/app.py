"""The cloud, wired: stores, hub, API, conductor, in one process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from litestar import Litestar
from litestar.openapi import OpenAPIConfig

from edgeloop import __version__
from edgeloop.cloud.api import Services, api_router
from edgeloop.cloud.conductor import Conductor
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.hub import CloudHub, Stores
from edgeloop.cloud.repository import Director, Images, read_roots
from edgeloop.cloud.store.blobs import folder_blobs
from edgeloop.cloud.store.database import Database
from edgeloop.hub.proof import ProofChecker
from edgeloop.hub.routes import error_handlers, hub_router
from edgeloop.hub.serve import bind, serve
from edgeloop.hub.waker import Waker
from edgeloop.transport.identity import read_key

_MAX_UPLOAD_BYTES = 512 * 1024 * 1024


def open_stores(config: CloudConfig) -> Stores:
    """Open a founded cloud's stores. Raises NotFound if there is none."""
    images_root, director_root = read_roots(config.roots)
    return Stores(
        database=Database(config.sqlalchemy_url),
        blobs=folder_blobs(config.blobs_folder),
        images=Images(root=images_root, online_key=read_key(config.online_keys / "images.pem")),
        director=Director(root=director_root, online_key=read_key(config.online_keys / "director.pem")),
    )


def make_app(config: CloudConfig, stores: Stores, waker: Waker) -> Litestar:
    """The ASGI app over opened stores; it closes them when it ends."""
    conductor = Conductor(stores.database, waker)
    hub = CloudHub(stores, conductor, waker)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        task = asyncio.create_task(conductor.run(tick_s=config.tick_s))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await hub.close()
            await asyncio.to_thread(stores.database.close)

    return Litestar(
        route_handlers=[hub_router(hub, ProofChecker()), api_router(Services(config, stores, conductor))],
        exception_handlers=error_handlers(),
        lifespan=[lifespan],
        request_max_body_size=_MAX_UPLOAD_BYTES,
        openapi_config=OpenAPIConfig(title="edgeloop cloud", version=__version__, path="/api/schema"),
        logging_config=None,
    )


def run_cloud(config: CloudConfig, *, on_ready: Callable[[str], None]) -> None:
    """Serve until told to stop. Raises Unavailable if the port is taken."""
    handle = bind(config.listen)
    try:
        waker = Waker()
        app = make_app(config, open_stores(config), waker)
        asyncio.run(serve(app, handle, config.listen, on_ready=on_ready, on_ending=waker.release))
    finally:
        handle.close()
