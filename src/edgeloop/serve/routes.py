"""The addresses of a server, on the bare ASGI interface: one look-up for those that are asked all the time.

    GET  /v2, /v2/health/live, /v2/health/ready                       Open Inference Protocol v2
    GET  /v2/models/NAME[/versions/VERSION][/ready]
    POST /v2/models/NAME[/versions/VERSION]/infer
    POST /v2/repository/index, /v2/repository/models/NAME/load|unload  Triton's model repository extension
    POST /predict, /models/NAME/predict                               our own: a body in, a Prediction out
    GET  /metrics                                                     Prometheus

Neighbours: `asgi` reads and answers, `tensors` and `bodies` say what the bytes mean, `models` has who answers.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from edgeloop import __version__
from edgeloop.contracts.codec import ready, to_json
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound, Unavailable
from edgeloop.contracts.manifest import Manifest, Modality
from edgeloop.serve import tensors
from edgeloop.serve.asgi import (
    BINARY,
    JSON,
    AtOnce,
    Gone,
    Receive,
    Reply,
    Request,
    Scope,
    Send,
    WrongMethod,
    answer,
    failure,
    has_body,
)
from edgeloop.serve.askers import Askers
from edgeloop.serve.bodies import source_of
from edgeloop.serve.config import ServeConfig
from edgeloop.serve.metrics import exposition
from edgeloop.serve.models import Model, Models

_log = structlog.get_logger(__name__)
_encoder = msgspec.json.Encoder()
_EMPTY = Reply(b"")
_ENCODED = {Modality.IMAGE: "image", Modality.SOUND: "sound", Modality.SERIES: "csv"}
"""What a BYTES input is called that holds encoded bodies."""
_PREDICTION = "prediction"
"""The BYTES output that holds a Prediction as JSON for each encoded body."""
_LARGE_JSON_BYTES = 64 * 1024
_ALONE_AFTER_S = 0.05

Handler = Callable[[Request], Awaitable[Reply]]


class _LoadParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: str | None = None
    unload_dependents: bool = False


class _LoadRequest(msgspec.Struct, frozen=True):
    parameters: _LoadParameters = _LoadParameters()


class Routes:
    """The ASGI app. stopping: set it, and new requests are turned away while those under way are answered."""

    def __init__(self, models: Models, config: ServeConfig) -> None:
        self._models = models
        self._config = config
        self._askers = Askers(config.bodies)
        # Numbers take up to 35 times the bytes of their JSON while they are read: one large document at a time.
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large-json")
        self.stopping = False
        self._asker: object = None
        self._since_s = 0.0
        self._fixed: dict[str, tuple[str, Handler]] = {
            "/v2": ("GET", self._server),
            "/v2/": ("GET", self._server),
            "/v2/health/live": ("GET", self._live),
            "/v2/health/ready": ("GET", self._ready),
            "/v2/repository/index": ("POST", self._index),
            "/metrics": ("GET", self._metrics),
            "/predict": ("POST", self._predict_only),
        }

    def at_once(self, method: str, path: str, asker: object) -> AtOnce | None:
        """Who replies at once to what is asked here, if it is computed in less time than a task takes; else None.

        asker: the same for all requests of one connection.
        """
        if self.stopping or method != "POST":
            return None
        match path.split("/"):
            case ["", "predict"] if len(self._models.by_name) == 1:
                model, answering = self._models.only(), self._prediction_at_once
            case ["", "models", name, "predict"] if name in self._models.by_name:
                model, answering = self._models.by_name[name], self._prediction_at_once
            case ["", "v2", "models", name, "infer"] if name in self._models.by_name:
                model, answering = self._models.by_name[name], self._inferred_at_once
            case _:
                return None
        alone = self._is_alone(asker)
        return partial(self._at_once, model, answering, alone) if model.pool.answers_at_once(alone=alone) else None

    def _at_once(
        self, model: Model, answering: Callable[[Model, Request, bool], Reply | None], alone: bool, request: Request
    ) -> Reply | None:
        started_s = time.perf_counter()
        try:
            reply = answering(model, request, alone)
        except Exception as error:  # noqa: BLE001  the server's outer guard, as below
            reply = _failed(error, str(model.pool.manifest.ref))
        if reply is not None:
            model.tally(model.version).add(reply.status, time.perf_counter() - started_s)
        return reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise NotImplementedError(f"only HTTP is served, not {scope['type']}")
        is_read = False
        headers = dict(scope["headers"])
        try:
            if self.stopping:
                raise Unavailable("this server is shutting down; ask another, or again once it is back")
            handler = self._handler(scope["method"], scope["path"])
            with self._askers.asking(receive) as asker:
                body = await asker.body(headers)
                is_read = True
                alone = self._is_alone(scope.get("client"))
                reply = await handler(Request(scope["method"], scope["path"], headers, body, alone))
        except Gone:
            return
        except Exception as error:  # noqa: BLE001  the server's outer guard: counted, told, and answered
            reply = _failed(error, scope["path"])
            self._models.astray[reply.status] += 1
        # A body that is not wanted is not waited for: the connection ends with the answer.
        await answer(send, reply, close=self.stopping or not (is_read or not has_body(headers)))

    def _is_alone(self, asker: object) -> bool:
        """Whether all requests of the last moments came over one connection: then nobody waits behind this one."""
        now_s = time.monotonic()
        if asker != self._asker:
            self._asker, self._since_s = asker, now_s
        return now_s - self._since_s > _ALONE_AFTER_S

    def _handler(self, method: str, path: str) -> Handler:
        known = self._fixed.get(path)
        wanted, handler = known if known is not None else self._of_model(path)
        if method != wanted:
            raise WrongMethod(f"{path} answers to {wanted}, not to {method}")
        return handler

    def _of_model(self, path: str) -> tuple[str, Handler]:
        match path.split("/")[1:]:
            case ["models", name, "predict"]:
                return "POST", partial(self._predict, self._models.get(name))
            case ["v2", "models", name, "infer"]:
                return "POST", partial(self._infer, self._models.get(name), None)
            case ["v2", "models", name, "versions", version, "infer"]:
                return "POST", partial(self._infer, self._models.get(name, version), version)
            case ["v2", "models", name] | ["v2", "models", name, "ready"]:
                return "GET", partial(self._about, self._models.get(name), path.endswith("/ready"))
            case ["v2", "models", name, "versions", version] | ["v2", "models", name, "versions", version, "ready"]:
                return "GET", partial(self._about, self._models.get(name, version), path.endswith("/ready"))
            case ["v2", "repository", "models", name, "load"]:
                return "POST", partial(self._load, name)
            case ["v2", "repository", "models", name, "unload"]:
                return "POST", partial(self._unload, name)
        raise NotFound(f"there is nothing at {path}; see /v2 and /metrics, or POST an input to /models/NAME/predict")

    # ---- predictions

    async def _predict_only(self, request: Request) -> Reply:
        return await self._predict(self._models.only(), request)

    async def _predict(self, model: Model, request: Request) -> Reply:
        return await _counted(model, self._prediction(model, request))

    async def _infer(self, model: Model, version: str | None, request: Request) -> Reply:
        return await _counted(model, self._inferred(model, version, request))

    async def _prediction(self, model: Model, request: Request) -> Reply:
        source = await self._maybe_apart(_listed_bytes(request), source_of, request, model.pool.manifest)
        made = await model.pool.predict(source, deadline_s=self._deadline_s(request), alone=request.alone)
        return Reply(_encoder.encode(made))

    def _prediction_at_once(self, model: Model, request: Request, alone: bool) -> Reply | None:
        if _listed_bytes(request) > _LARGE_JSON_BYTES:
            return None
        self._deadline_s(request)
        made = model.pool.predict_at_once(source_of(request, model.pool.manifest), alone=alone)
        return None if made is None else Reply(_encoder.encode(made))

    def _inferred_at_once(self, model: Model, request: Request, alone: bool) -> Reply | None:
        if len(request.body) > _LARGE_JSON_BYTES:
            return None
        asked = tensors.read_request(request.body, _json_bytes(request))
        tensors.deadline_s(asked.infer.parameters, self._config.deadline_s)
        if asked.tensor.datatype == "BYTES":
            return None
        given = self._given(model.pool.manifest, asked)
        made = model.pool.run_tensor_at_once(given[0], alone=alone) if len(given) == 1 else None
        return None if made is None else _inference(model.name, model.pool.manifest, asked, dict(made))

    def _deadline_s(self, request: Request) -> float:
        told = request.header(b"x-deadline-ms")
        if told is None:
            return self._config.deadline_s
        if not (told.isascii() and told.isdigit()) or int(told[:12]) < 1:
            raise InvalidInput(f"X-Deadline-Ms is {told!r}; expected whole milliseconds, 1 or more")
        return min(int(told[:12]) / 1000, self._config.deadline_s)

    async def _inferred(self, model: Model, version: str | None, request: Request) -> Reply:
        split = _json_bytes(request)
        asked = await self._maybe_apart(
            len(request.body) if split is None else 0, tensors.read_request, request.body, split
        )
        # From here to where the pool lets it in nothing is awaited: what is checked is what answers.
        manifest = self._models.get(model.name, version).pool.manifest
        deadline_s = tensors.deadline_s(asked.infer.parameters, self._config.deadline_s)
        if asked.tensor.datatype == "BYTES":
            made = await self._of_encoded(model, asked, deadline_s, request.alone)
        else:
            given = self._given(manifest, asked)
            made = tensors.joined(await model.pool.run_tensors(given, deadline_s=deadline_s, alone=request.alone))
        return _inference(model.name, manifest, asked, made)

    def _given(self, manifest: Manifest, asked: tensors.Asked) -> list[NDArray[np.float32]]:
        if asked.tensor.name != manifest.input.name:
            raise InvalidInput(f"the input is called {manifest.input.name!r}, the request has {asked.tensor.name!r}")
        return tensors.reals(asked, manifest.input.shape, max_items=self._most_items)

    async def _maybe_apart(self, size_bytes: int, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call, in a thread if it is about a large document: others are answered meanwhile."""
        if size_bytes > _LARGE_JSON_BYTES:
            return await asyncio.get_running_loop().run_in_executor(self._reader, call, *arguments)
        return call(*arguments)

    @property
    def _most_items(self) -> int:
        return self._config.pool.max_queue

    async def _of_encoded(
        self, model: Model, asked: tensors.Asked, deadline_s: float, alone: bool
    ) -> dict[str, NDArray[np.float32] | list[bytes]]:
        wanted = _ENCODED.get(model.pool.manifest.input.modality)
        if wanted is None or asked.tensor.name != wanted:
            takes = f"the BYTES input {wanted!r}" if wanted else "FP32 alone"
            raise InvalidInput(f"{model.name} takes {takes}, the request has {asked.tensor.name!r}")
        bodies = tensors.encoded(asked, max_items=self._most_items)
        if len(bodies) == 1:
            made = [await model.pool.predict(bodies[0], deadline_s=deadline_s, alone=alone)]
        else:
            made = await model.pool.predict_many(bodies, deadline_s=deadline_s)
        return {_PREDICTION: [_encoder.encode(one) for one in made]}

    # ---- what there is

    async def _server(self, _: Request) -> Reply:
        extensions = ["binary_tensor_data", "model_repository"]
        return Reply(to_json({"name": "edgeloop", "version": __version__, "extensions": extensions}))

    async def _live(self, _: Request) -> Reply:
        return _EMPTY

    async def _ready(self, _: Request) -> Reply:
        return _EMPTY

    async def _about(self, model: Model, only_ready: bool, _: Request) -> Reply:
        return _EMPTY if only_ready else Reply(to_json(about(model)))

    async def _metrics(self, _: Request) -> Reply:
        text, kind = exposition(self._models, queue_limit=self._config.pool.max_queue)
        return Reply(text, kind=kind)

    # ---- the repository

    async def _index(self, request: Request) -> Reply:
        only_ready = _decoded(request.body, dict[str, Any]).get("ready") is True
        rows = await self._models.index()
        return Reply(to_json([row for row in rows if row["state"] == "READY" or not only_ready]))

    async def _load(self, name: str, request: Request) -> Reply:
        told = _decoded(request.body, _LoadRequest).parameters
        await self._models.load(name, told.version)
        return _EMPTY

    async def _unload(self, name: str, request: Request) -> Reply:
        _decoded(request.body, _LoadRequest)
        await self._models.unload(name)
        return _EMPTY


def about(model: Model) -> dict[str, Any]:
    """A model's metadata, as the Open Inference Protocol tells it; -1 is the batch axis."""
    manifest, servable = model.pool.manifest, model.pool.servable
    return {
        "name": model.name,
        "versions": [manifest.version],
        "platform": f"edgeloop_{servable.engine}",
        "inputs": [{"name": manifest.input.name, "datatype": "FP32", "shape": [-1, *manifest.input.shape[1:]]}],
        "outputs": [
            {"name": name, "datatype": "FP32", "shape": [-1, *shape[1:]]} for name, shape in servable.outputs.items()
        ],
    }


def _listed_bytes(request: Request) -> int:
    """How large a document of numbers in JSON the body is; 0 for all else."""
    kind = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
    return len(request.body) if kind == JSON.decode() else 0


def _json_bytes(request: Request) -> str | None:
    if request.header(b"content-encoding") not in (None, "identity"):
        raise InvalidInput("compressed requests are not taken; send the body as it is")
    return request.header(b"inference-header-content-length")


def _inference(
    name: str, manifest: Manifest, asked: tensors.Asked, made: dict[str, NDArray[np.float32] | list[bytes]]
) -> Reply:
    body, json_bytes = tensors.write_response(name, manifest.version, asked.infer, made)
    if json_bytes is None:
        return Reply(body)
    return Reply(body, kind=BINARY, extra=((b"inference-header-content-length", b"%d" % json_bytes),))


async def _counted(model: Model, making: Awaitable[Reply]) -> Reply:
    """The reply, or the failure, counted with the version that was asked: there alone."""
    started_s = time.perf_counter()
    tally = model.tally(model.version)
    try:
        reply = await making
    except Exception as error:  # noqa: BLE001  the outer guard once more: a bug is counted with the model that has it
        reply = _failed(error, str(model.pool.manifest.ref))
    tally.add(reply.status, time.perf_counter() - started_s)
    return reply


def _failed(error: Exception, asked: str) -> Reply:
    """What a failure is told as; a bug is logged. asked: path or model, for the log."""
    if isinstance(error, EdgeloopError):
        return failure(error)
    _log.error("request_failed", asked=asked, exc_info=error)
    return Reply(to_json({"error": "a bug of the server's; its log says more", "code": "error"}), 500)


def _decoded(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body or b"{}", type=ready(kind))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body is not the JSON that is expected here: {error}") from error
