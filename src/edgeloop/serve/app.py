"""The server, wired: models, routes and uvicorn, in one process, on one event loop.

At the end (SIGTERM, Ctrl-C) it takes no new connection, turns new requests away with 503, answers those under way,
and only then gives the models up. SIGHUP has it look into the watched folder at once.
"""

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

import structlog
import uvicorn

from edgeloop.contracts.errors import EdgeloopError
from edgeloop.hub.serve import bind, loop_factory, url_of
from edgeloop.serve.config import ServeConfig
from edgeloop.serve.models import Models
from edgeloop.serve.routes import Routes
from edgeloop.serve.short import Desk, ShortWayProtocol

_log = structlog.get_logger(__name__)

_FAREWELL_S = 0.25
"""How long idle connections stay open at the end, so that a request on its way is answered 503 and not cut off."""
_SWITCH_INTERVAL_S = 0.001
"""How long a worker may keep the event loop from going on; Python's own 5 ms would be most of a short answer."""
_AFTER_BREAK_S = 1.0
_TICKS_A_LOOK = 10
"""uvicorn's tick is 0.1 s: connections are looked after once a second."""


def run_server(config: ServeConfig, *, on_ready: Callable[[str], None]) -> None:
    """Serve until told to stop. on_ready gets the URL once every bundle answers.

    Raises Unavailable if the port is taken, or what is wrong with a bundle.
    """
    handle = bind(config.listen)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(config, handle, on_ready=on_ready))
    finally:
        handle.close()


async def _serve(config: ServeConfig, handle: socket.socket, *, on_ready: Callable[[str], None]) -> None:
    models = Models(config)
    tasks: set[asyncio.Task[None]] = set()
    try:
        await models.open()
        gc.freeze()  # what was loaded until now stays: collections need not look at it again and hold answers up
        routes = Routes(models, config)
        tasks.add(asyncio.create_task(_watched(models)))
        _on_hang_up(lambda: _start(models.rescan(everything=True), tasks))
        await _Server(_uvicorn_config(routes, config), routes, lambda: on_ready(_url(handle, config))).serve([handle])
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await _given_up(models, config.drain_s)


async def _given_up(models: Models, within_s: float) -> None:
    """Close the models; an engine that does not come back is left to the end of the process."""
    try:
        async with asyncio.timeout(within_s):
            await models.close()
    except TimeoutError:
        _log.error("models_not_closed", after_s=within_s)


async def _watched(models: Models) -> None:
    while True:
        try:
            await models.watch()
            return
        except EdgeloopError as error:  # the folder is away: it may come back
            _log.warning("watch_failed", reason=str(error))
        except Exception as error:  # noqa: BLE001 - the outer guard of a long-running loop
            _log.error("watch_broke", exc_info=error)
            await asyncio.sleep(_AFTER_BREAK_S)


def _start(rescan: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
    task = asyncio.create_task(rescan)
    tasks.add(task)
    task.add_done_callback(lambda ended: _ended(ended, tasks))


def _ended(task: asyncio.Task[None], tasks: set[asyncio.Task[None]]) -> None:
    tasks.discard(task)
    if not task.cancelled() and task.exception() is not None:
        _log.warning("rescan_failed", reason=str(task.exception()))


def _on_hang_up(call: Callable[[], None]) -> None:
    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, call)


def _url(handle: socket.socket, config: ServeConfig) -> str:
    return url_of(handle, tls=config.listen.tls_cert is not None)


def _uvicorn_config(routes: Routes, config: ServeConfig) -> uvicorn.Config:
    return uvicorn.Config(
        routes,
        http=cast(Any, partial(ShortWayProtocol, routes.at_once, Desk())),
        log_level=logging.ERROR,
        access_log=False,
        lifespan="off",
        ws="none",
        date_header=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=config.connections,
        timeout_graceful_shutdown=max(1, round(config.drain_s)),
        timeout_keep_alive=75,
        ssl_certfile=config.listen.tls_cert,
        ssl_keyfile=config.listen.tls_key,
    )


class _Server(uvicorn.Server):
    """uvicorn, with a word when it is ready and a farewell to idle connections."""

    def __init__(self, config: uvicorn.Config, routes: Routes, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._routes = routes
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_A_LOOK == 0:
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, ShortWayProtocol):
                    connection.look_after()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._routes.stopping = True
        for server in self.servers:
            server.close()
        await asyncio.sleep(_FAREWELL_S)
        await super().shutdown(sockets)
