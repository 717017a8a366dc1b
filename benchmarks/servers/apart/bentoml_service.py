"""BentoML in a Python of its own: `bentoml serve bentoml_service:Service`, or `:Mounted`.

Its documentation: as many workers as cores. `Service` is an API as its guides write it; it refuses its own pickled form
from outside and has no raw one, so the tensor travels as base64 in JSON, which its parser reads faster than a list of
numbers, and the method is async, which spares a thread a request. `Mounted` is its "ASGI integration": a raw route of
Starlette's in the same workers. Metrics and access log are off, which is to its advantage. Batching stays off: the
model takes one input at a time.
"""

import base64
import os
from typing import Any

import bentoml
from served_model import ServedModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

WORKERS = "EDGELOOP_BENCH_WORKERS"

_SETTINGS: dict[str, Any] = {
    "workers": int(os.environ[WORKERS]),
    "metrics": {"enabled": False},
    "logging": {"access": {"enabled": False}},
}


class Model:
    """What both services are made of."""

    def __init__(self) -> None:
        self.model = ServedModel()


async def raw(request: Request) -> JSONResponse:
    """The raw route."""
    return JSONResponse(bentoml.get_current_service().model.answer(await request.body()))


@bentoml.service(**_SETTINGS)
class Service(Model):
    """An API as its guides write it."""

    @bentoml.api
    async def predict(self, tensor: str) -> dict:  # type: ignore[type-arg]  # as BentoML reads it
        """tensor: base64."""
        return self.model.answer(base64.b64decode(tensor))


@bentoml.asgi_app(Starlette(routes=[Route("/raw", raw, methods=["POST"])]), path="/mounted")
@bentoml.service(**_SETTINGS)
class Mounted(Model):
    """A raw route in the same workers."""
