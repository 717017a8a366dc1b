"""The cloud, wired: stores, hub, API, conductor, in one process; on PostgreSQL, one of several."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from litestar import Litestar
from litestar.openapi import OpenAPIConfig

from edgeloop import __version__
from edgeloop.cloud.api import Services, api_router
from edgeloop.cloud.conductor import Conductor
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import require_founded, take_in_roots
from edgeloop.cloud.hub import CloudHub, Stores
from edgeloop.cloud.online import OnlineKeys
from edgeloop.cloud.replica import Replica
from edgeloop.cloud.store import restores
from edgeloop.cloud.store.blobs import open_blobs
from edgeloop.cloud.store.database import Database
from edgeloop.cloud.store.engine import is_postgresql, parse_url
from edgeloop.cloud.store.nonces import SharedNonces
from edgeloop.cloud.store.sole import sole_server
from edgeloop.cloud.tidy import Tidier
from edgeloop.cloud.trust import forget_retired, warn_daily
from edgeloop.contracts.codec import ready_all
from edgeloop.hub.load import Load
from edgeloop.hub.proof import OwnNonces, ProofChecker
from edgeloop.hub.routes import error_handlers, hub_router
from edgeloop.hub.serve import bind, loop_factory, serve
from edgeloop.hub.waker import Waker
from edgeloop.supervisor import Supervisor
from edgeloop.transport.seal import open_keyring

_MAX_UPLOAD_BYTES = 512 * 1024 * 1024


def open_stores(config: CloudConfig) -> Stores:
    """Open a founded cloud's stores. Raises NotFound if there is none."""
    require_founded(config)
    database = Database(config.sqlalchemy_url, migrates=config.migrates)
    try:
        take_in_roots(config, database)
        if database.read_now(restores.is_unfinished):
            database.write_now(restores.note_whole)
        blobs = open_blobs(config.blobs_folder, config.blobs_url)
        keyring = None if config.sample_key is None else open_keyring(config.sample_key, os.environ)
    except BaseException:
        database.close()
        raise
    return Stores(database=database, blobs=blobs, online=OnlineKeys(config.online_keys), keyring=keyring)


def make_app(config: CloudConfig, stores: Stores, waker: Waker) -> Litestar:
    """The ASGI app over opened stores; it closes them when it ends."""
    ready_all()  # the API's bodies are decoded by Litestar
    conductor = Conductor(stores.database, waker)
    load = Load(stores.database.queue_s)
    hub = CloudHub(stores, conductor, waker, load)
    shared = is_postgresql(stores.database.engine)
    checker = ProofChecker(nonces=SharedNonces(stores.database) if shared else OwnNonces())

    tidier = Tidier(stores.database, stores.samples, config.keep)

    async def conduct() -> None:
        await asyncio.gather(conductor.run(tick_s=config.tick_s), tidier.run())

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(Replica(stores.database.engine, waker, conduct).run() if shared else conduct()),
            asyncio.create_task(warn_daily(stores.database)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await hub.close()
            await asyncio.to_thread(stores.database.close)

    return Litestar(
        route_handlers=[
            hub_router(hub, checker, config.limits, load),
            api_router(Services(config, stores, conductor)),
        ],
        exception_handlers=error_handlers(),
        lifespan=[lifespan],
        request_max_body_size=_MAX_UPLOAD_BYTES,
        openapi_config=OpenAPIConfig(title="edgeloop cloud", version=__version__, path="/api/schema"),
        logging_config=None,
    )


def run_cloud(config: CloudConfig, *, on_ready: Callable[[str], None]) -> None:
    """Serve until told to stop. Raises Unavailable if the port is taken."""
    require_founded(config)
    handle = bind(config.listen)
    try:
        with sole_server(parse_url(config.sqlalchemy_url)), asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_run(config, open_stores(config), handle, on_ready=on_ready))
    finally:
        handle.close()


async def _run(config: CloudConfig, stores: Stores, handle: socket.socket, *, on_ready: Callable[[str], None]) -> None:
    try:
        await stores.blobs.check()
        if not is_postgresql(stores.database.engine):  # else other replicas may be writing there
            await asyncio.to_thread(stores.blobs.sweep)
        await asyncio.to_thread(forget_retired, stores)
    except BaseException:
        stores.database.close()
        raise
    waker = Waker()
    app = make_app(config, stores, waker)
    await serve(
        app, handle, config.listen, on_ready=on_ready, on_ending=waker.release, supervisor=Supervisor(os.environ)
    )
