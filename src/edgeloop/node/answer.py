"""The node's `infer` verb: answered here where it can be, carried up where it cannot.

Rules kept here:
- what a model here can answer does not bother the hub above, and goes on while that is away;
- what is wrong with the input is the answer, and not a reason to ask elsewhere;
- a model that takes long to come leaves half of the deadline to the hub above; the next question finds it loaded;
- NumPy and an engine are loaded with the first question, so that a node that only carries stays small.

Neighbours: `runtime.answerer` keeps the models, `signed` says which there are.
"""

import asyncio
import time
from collections.abc import Collection
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec
import structlog

from edgeloop.contracts.errors import EdgeloopError, Unavailable
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.messages import InferReply, InferRequest
from edgeloop.node.signed import SignedModels
from edgeloop.runtime.engines.installed import installed_engines
from edgeloop.transport.uplink import Uplink

if TYPE_CHECKING:
    from edgeloop.runtime.answerer import Answerer

_log = structlog.get_logger(__name__)

_SHARE_TO_OPEN = 0.5


class _NotHere(Exception):
    """This node cannot answer this question; str() says why."""


class Answering:
    """Answers for one node. Belongs to one event loop.

    models: None for a node that carries every question up. engines: those that may run here, None for all that are
    installed.
    """

    def __init__(
        self, uplink: Uplink, models: SignedModels | None, *, engines: Collection[EngineName] | None = None
    ) -> None:
        self._uplink = uplink
        self._models = models
        self._engines = engines
        self._answerer: Answerer | None = None
        self._making = asyncio.Lock()

    async def infer(self, request: InferRequest) -> InferReply:
        """See Hub.infer. Raises what is wrong with the input, or what the hub above says of a question carried up."""
        until_s = time.monotonic() + request.deadline_ms / 1000
        try:
            return await self._here(request, until_s)
        except _NotHere as error:
            return await self._above(request, until_s, str(error))

    async def close(self) -> None:
        """Let go of the models."""
        if self._models is not None:
            await self._models.close()
        if self._answerer is not None:
            await self._answerer.close()

    async def _here(self, request: InferRequest, until_s: float) -> InferReply:
        """Raises _NotHere, or what is wrong with the input."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(_SHARE_TO_OPEN * _left_s(until_s)):
                    answerer = await self._ready()
                    pool = await stack.enter_async_context(answerer.model(request.name, request.version))
            except EdgeloopError as error:
                raise _NotHere(str(error)) from error
            except TimeoutError as error:
                raise _NotHere("the model is not loaded yet") from error
            try:
                async with asyncio.timeout(_left_s(until_s)):
                    prediction = await pool.predict(request.data, deadline_s=_left_s(until_s))
            except (Unavailable, TimeoutError) as error:
                raise _NotHere(str(error) or "the model takes longer than the deadline") from error
        _log.debug("infer_answered", bundle=prediction.bundle)
        return InferReply(prediction=prediction)

    async def _above(self, request: InferRequest, until_s: float, reason: str) -> InferReply:
        """What the hub above answers in the time that is left. Raises Unavailable if it does not, and as it does."""
        _log.debug("infer_carried_up", name=request.name, version=request.version, reason=reason)
        left_ms = int(1000 * _left_s(until_s))
        late = f"no answer within {request.deadline_ms} ms, here ({reason}) or from above; keep the device's own"
        if left_ms < 1:
            raise Unavailable(late)
        try:
            async with asyncio.timeout(left_ms / 1000):
                return await self._uplink.infer(msgspec.structs.replace(request, deadline_ms=left_ms))
        except TimeoutError as error:
            raise Unavailable(late) from error
        except Unavailable as error:
            raise Unavailable(f"not answered here ({reason}), nor above: {error}") from error

    async def _ready(self) -> "Answerer":
        async with self._making:
            if self._answerer is None:
                self._answerer = await asyncio.to_thread(self._make)
            return self._answerer

    def _make(self) -> "Answerer":
        if self._models is None:
            raise Unavailable("this node carries every question up")
        if self._engines is None:
            self._engines = installed_engines()
        if not self._engines:
            raise Unavailable("no engine is installed here; install ai-edge-litert or onnxruntime")
        from edgeloop.runtime.answerer import Answerer

        able = tuple(self._engines)
        return Answerer(self._models, engines=lambda: able)


def _left_s(until_s: float) -> float:
    return max(0.0, until_s - time.monotonic())
