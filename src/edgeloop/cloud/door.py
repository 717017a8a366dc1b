"""Who may come in: on every request to the API a token, a role that covers the route's, and a line in the log.

The role that a route needs stands in its `security`, and so in the OpenAPI; a route that names none is the owners'.
What changes something is written into the log before it is carried out, and what came of it before it is answered: so
nothing is done that is not in the log, even if the cloud ends in between. A token fills neither disk nor log: what it
asks for in a second is bounded, and what it is refused again and again for want of a role is counted.
Neighbours: `api` states the roles, `store.access` keeps tokens and log.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from litestar import Request
from litestar.handlers import BaseRouteHandler
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from edgeloop.cloud.store import access
from edgeloop.cloud.store.access import Caller
from edgeloop.cloud.store.database import Database
from edgeloop.contracts.access import Role
from edgeloop.contracts.errors import EdgeloopError, Refused
from edgeloop.hub.limits import Buckets, Failures, Limits, TooMany

AnyRequest = Request[Any, Any, Any]
SCHEME = "token"
"""What the OpenAPI calls the bearer token."""

Needs = Sequence[dict[str, list[str]]]
VIEWER: Needs = ({SCHEME: [Role.VIEWER.value]},)
OPERATOR: Needs = ({SCHEME: [Role.OPERATOR.value]},)
OWNER: Needs = ({SCHEME: [Role.OWNER.value]},)

UNLOGGED = {"logged": False}
"""For a route that changes nothing though its method could, or is asked many times a minute by a machine."""

_REFUSALS_HZ = 1 / 60
_REFUSALS_BURST = 20
"""Lines about what a token was refused for want of a role."""

_READS = ("GET", "HEAD", "OPTIONS")


def needed_role(handler: BaseRouteHandler) -> Role:
    """The role that a route states; the highest where it states none."""
    for requirement in getattr(handler, "security", None) or ():
        for name in requirement.get(SCHEME, ()):
            return Role(name)
    return Role.OWNER


def caller_of(request: AnyRequest) -> Caller:
    """Whose request this is."""
    caller: Caller = request.scope["user"]
    return caller


def note(request: AnyRequest, detail: str) -> None:
    """Say in the log what was made or changed."""
    request.state.access_detail = detail


class Doorkeeper:
    """Stands before every route of the API."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits
        self._failures = Failures(limits)
        self._entries = Buckets(hz=limits.entries_hz, burst=limits.entries_burst)
        self._refusals = Buckets(hz=_REFUSALS_HZ, burst=_REFUSALS_BURST)
        # By whose token: refusals since the last line about one. There are no more names than tokens.
        self._unwritten: Counter[str] = Counter()

    def before(self, app: ASGIApp) -> ASGIApp:
        """The app behind the door."""

        async def door(scope: Scope, receive: Receive, send: Send) -> None:
            request: AnyRequest = Request(scope)
            caller = await self._admit(request)
            scope["user"] = caller
            handler = scope["route_handler"]
            if request.method in _READS or not handler.opt.get("logged", True):
                _check_role(caller, handler)
                await app(scope, receive, send)
                return
            entry = await self._begin(request, caller, handler)
            await app(scope, receive, self._telling(entry, request, send))

        return door

    async def _admit(self, request: AnyRequest) -> Caller:
        """Raises Refused without a good token, TooMany after too many bad ones."""
        address = _address(request)
        self._failures.check(address)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer" or not token:
                raise Refused("no token; send 'Authorization: Bearer TOKEN' with the token of the operator file")
            return await self._database.read(lambda c: access.find_caller(c, token, now_s=time.time()))
        except Refused:
            self._failures.note_failure(address)
            raise

    async def _begin(self, request: AnyRequest, caller: Caller, handler: BaseRouteHandler) -> int:
        wait_s = self._entries.take(caller.name)
        if wait_s > 0:
            raise TooMany(
                f"{caller.name!r} asks for more than {self._limits.entries_hz:g} changes a second; there is room again "
                f"in {math.ceil(wait_s)} s",
                wait_s,
            )
        refusal = _refusal(caller, handler)
        if refusal is not None and self._refusals.take(caller.name) > 0:
            self._unwritten[caller.name] += 1
            raise refusal
        action = _action(handler)
        target = " ".join(str(value) for value in request.path_params.values())[:200]
        address = _address(request)

        def operation(connection: Any) -> int:
            return access.note_request(
                connection, caller, action=action, target=target, address=address, now_s=time.time()
            )

        entry = await self._database.write(operation)
        if refusal is not None:
            more = self._unwritten.pop(caller.name, 0)
            await self._end(entry, refusal.code, f"{refusal}{f' {more:,} more like it before.' if more else ''}")
            raise refusal
        return entry

    def _telling(self, entry: int, request: AnyRequest, send: Send) -> Send:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = int(message["status"])
                outcome = "done" if status < 400 else _outcome(status)
                await self._end(entry, outcome, str(request.state.get("access_detail", "")))
            await send(message)

        return told

    async def _end(self, entry: int, outcome: str, detail: str) -> None:
        await self._database.write(
            lambda c: access.note_outcome(c, entry, outcome=outcome, detail=detail, now_s=time.time())
        )


def _check_role(caller: Caller, handler: BaseRouteHandler) -> None:
    refusal = _refusal(caller, handler)
    if refusal is not None:
        raise refusal


def _refusal(caller: Caller, handler: BaseRouteHandler) -> Refused | None:
    needed = needed_role(handler)
    if caller.role.covers(needed):
        return None
    return Refused(f"{caller.name!r} is {caller.role}; {_action(handler)} needs {needed}. Ask an owner.")


def _action(handler: BaseRouteHandler) -> str:
    return handler.handler_name.replace("_", "-")


def _outcome(status: int) -> str:
    codes = {kind.http_status: kind.code for kind in EdgeloopError.__subclasses__()}
    return codes.get(status, f"error {status}")


def _address(request: AnyRequest) -> str:
    return request.client.host if request.client else "unknown"
