"""Run an app on a port until told to stop."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import uvicorn
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.contracts.names import is_loopback
from edgeloop.crowd import most_open_files
from edgeloop.hub.tls import ServerFiles, follow, warn_of_expiry
from edgeloop.supervisor import Supervisor

_GRACE_S = 2
_LONG_S = 75
_SHORT_S = 5
"""How long a connection may lie idle: beyond the minute after which devices come again; and where descriptors may run
out, since who cannot be let in waits for seconds."""
_ACCEPTS = 8
"""libuv lets in one connection a turn of the event loop, for each handle to the socket. A busy loop turns a hundred
times a second: with one handle, connections of 10,000 devices waited for seconds, and then for SYNs sent again."""
_PLENTY = 0.9
"""Of the descriptors that this process may have, so many in use."""


@dataclass(frozen=True)
class Listen:
    """Where to listen. port 0: any free one. TLS is needed everywhere but on loopback."""

    host: str = "127.0.0.1"
    port: int = 0
    tls_cert: Path | None = None
    tls_key: Path | None = None


def listening(folder: Path, host: str, port: int, cert: Path | None, key: Path | None) -> Listen:
    """Where to listen, with the given certificate, or else the one in the folder of a cloud or node, if it has one."""
    files = ServerFiles(folder / "tls")
    if cert is None and key is None and files.cert.is_file():
        return Listen(host, port, files.cert, files.key)
    return Listen(host, port, cert, key)


def bind(listen: Listen) -> socket.socket:
    """A listening socket. Raises Unavailable if the port is taken, InvalidInput if the address is no good."""
    require_listenable(listen)
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    # With the protocol named, asyncio sends small packets at once; else each answer waits 40 ms for the client's ACK.
    handle = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        handle.bind((listen.host, listen.port))
        handle.listen(1024)
    except (OSError, OverflowError) as error:
        handle.close()
        raise Unavailable(
            f"cannot listen on {listen.host} port {listen.port}: {error}. Stop the program that has it, or choose "
            "another with --port (0 takes any free one)."
        ) from error
    return handle


def require_listenable(listen: Listen) -> None:
    """Raise InvalidInput unless its certificate is of use, which it needs everywhere but on loopback."""
    if listen.tls_cert is None:
        if listen.tls_key is not None:
            raise InvalidInput(f"--tls-key {listen.tls_key} is given without its certificate: give --tls-cert, too")
        if not is_loopback(listen.host):
            raise InvalidInput(
                f"{listen.host} can be reached from other machines: give --tls-cert and --tls-key, or listen on "
                "127.0.0.1"
            )
        return
    warn_of_expiry(listen.tls_cert)
    try:
        # A server has nobody to ask for a pass phrase.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            listen.tls_cert, listen.tls_key, password=""
        )
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"cannot use {listen.tls_cert} with {listen.tls_key}: {error}. Give a PEM certificate chain and its key, "
            "without a pass phrase."
        ) from error


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's event loop where it is installed; it is about twice as fast."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def serve(
    app: ASGIApp,
    handle: socket.socket,
    listen: Listen,
    *,
    on_ready: Callable[[str], None],
    on_ending: Callable[[], None],
    supervisor: Supervisor | None = None,
) -> None:
    """Serve an ASGI app on a bound socket until SIGTERM or SIGINT.

    on_ready gets the URL once it answers; on_ending is called before open requests are waited for. supervisor: hears
    of both, and that the event loop turns.
    """
    heard = supervisor or Supervisor({})

    def ready() -> None:
        heard.ready()
        on_ready(url_of(handle, tls=listen.tls_cert is not None))

    def ending() -> None:
        heard.ending()
        on_ending()

    config = server_config(app, listen)
    server = _Announcing(config, ready, ending)
    config.load()
    renewing = None if config.ssl is None else asyncio.create_task(follow(config.ssl, listen.tls_cert, listen.tls_key))
    more = [handle.dup() for _ in range(_ACCEPTS - 1)]
    try:
        await server.serve(sockets=[handle, *more])
    except SystemExit as error:  # uvicorn's way to say that the app could not start
        raise Unavailable("the server could not start; the lines above say why") from error
    finally:
        for one in more:
            one.close()
        if renewing is not None:
            renewing.cancel()
    if not server.started:
        raise Unavailable("the server could not start; the lines above say why")


def server_config(app: ASGIApp, listen: Listen) -> uvicorn.Config:
    """How our servers serve, wherever they run."""
    return uvicorn.Config(
        _forgetting(app),
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=_LONG_S,
        ssl_certfile=listen.tls_cert,
        ssl_keyfile=listen.tls_key,
    )


def _forgetting(app: ASGIApp) -> ASGIApp:
    """uvicorn holds a connection's last request until the next one comes; of thousands that lie idle, 2 KB each."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)
        if scope["type"] == ScopeType.HTTP:
            cast("list[Any]", scope["headers"]).clear()
            scope["state"].clear()

    return answering


def url_of(handle: socket.socket, *, tls: bool = False) -> str:
    """The address of a bound socket."""
    host, port = handle.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


class _Announcing(uvicorn.Server):
    """uvicorn, with a word when it is ready and one when it ends."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], on_ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_ending = on_ending
        self._plenty = _PLENTY * most_open_files()

    async def on_tick(self, counter: int) -> bool:
        is_plenty = len(self.server_state.connections) >= self._plenty
        self.config.timeout_keep_alive = _SHORT_S if is_plenty else _LONG_S  # of those that come from now on
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_ending()
        await super().shutdown(sockets)
