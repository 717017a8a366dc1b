"""What is answered without a task is what the app would have answered."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from builders import LABELS, make_bundle, quadrant_images
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.pool import PoolSettings
from edgeloop.serve.asgi import Reply, Request
from edgeloop.serve.config import ServeConfig
from edgeloop.serve.models import Models
from edgeloop.serve.routes import Routes

pytestmark = pytest.mark.anyio

IMAGES = quadrant_images(4, seed=5)
RAW = {"content-type": "application/octet-stream"}
JSON = {"content-type": "application/json"}
ASKER = ("127.0.0.1", 1)
ALWAYS_MS = 1000.0
"""So that answers count as short on any machine."""


class Server:
    """Routes over real models, asked on both ways."""

    def __init__(self, folder: Path, pool: PoolSettings, *names: str) -> None:
        config = ServeConfig(bundles=tuple(make_bundle(folder, name=name) for name in names), race_s=0.0, pool=pool)
        self.models = Models(config)
        self.routes = Routes(self.models, config)

    def at_once(self, path: str, body: bytes, headers: dict[str, str], method: str = "POST") -> Reply | None:
        told = {name.encode(): value.encode() for name, value in headers.items()}
        quick = self.routes.at_once(method, path, ASKER)
        return None if quick is None else quick(Request(method, path, told, body))

    async def by_the_app(self, path: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.routes)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.post(path, content=body, headers=headers)

    def counted(self) -> dict[int, int]:
        return dict(self.models.by_name["tiny"].tally("1.0.0").by_status)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path, PoolSettings(workers=1, inline_ms=ALWAYS_MS), "tiny")
    await made.models.open()
    yield made
    await made.models.close()


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Server]:
    """One whose model is always the workers'."""
    made = Server(tmp_path, PoolSettings(workers=1, inline_ms=0.0, alone_ms=0.0), "tiny")
    await made.models.open()
    yield made
    await made.models.close()


def infer(**changed: Any) -> bytes:
    values = (IMAGES[0] / 255.0).astype(np.float32)
    given = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "FP32", "data": values.ravel().tolist()} | changed
    return json.dumps({"inputs": [given], "id": "q"}).encode()


def infer_binary() -> tuple[bytes, dict[str, str]]:
    values = (IMAGES[0] / 255.0).astype("<f4").tobytes()
    given = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "FP32", "parameters": {"binary_data_size": 256}}
    asked = {"inputs": [given], "parameters": {"binary_data_output": True}}
    head = json.dumps(asked).encode()
    return head + values, {"inference-header-content-length": str(len(head))}


SAME = {
    "raw": ("/predict", IMAGES[1].tobytes(), RAW),
    "named": ("/models/tiny/predict", IMAGES[1].tobytes(), RAW),
    "png": ("/predict", encode_png(IMAGES[1]), {"content-type": "image/png"}),
    "json": ("/predict", json.dumps({"array": IMAGES[1].tolist()}).encode(), JSON),
    "infer": ("/v2/models/tiny/infer", infer(), JSON),
    "infer binary": ("/v2/models/tiny/infer", *infer_binary()),
    "empty": ("/predict", b"", RAW),
    "no image": ("/predict", b"no image", {"content-type": "image/png"}),
    "another type": ("/predict", b"1,2", {"content-type": "text/csv"}),
    "no deadline": ("/predict", IMAGES[1].tobytes(), RAW | {"x-deadline-ms": "soon"}),
    "compressed": ("/v2/models/tiny/infer", infer(), {"content-encoding": "gzip"}),
    "another name": ("/v2/models/tiny/infer", infer(name="picture"), JSON),
    "another shape": ("/v2/models/tiny/infer", infer(shape=[1, 4, 4, 1]), JSON),
    "no json": ("/v2/models/tiny/infer", b"{", JSON),
}


@pytest.mark.parametrize(("path", "body", "headers"), SAME.values(), ids=list(SAME))
async def test_answer_at_once_is_the_apps_and_is_counted_the_same(
    server: Server, path: str, body: bytes, headers: dict[str, str]
) -> None:
    at_once = server.at_once(path, body, headers)
    assert at_once is not None
    assert server.counted() == {at_once.status: 1}
    by_the_app = await server.by_the_app(path, body, headers)
    assert server.counted() == {at_once.status: 2}
    assert at_once.status == by_the_app.status_code
    assert {b"content-type": at_once.kind, **dict(at_once.extra)}.items() <= dict(by_the_app.headers.raw).items()
    if at_once.kind != b"application/json":
        assert at_once.body == by_the_app.content
    else:
        assert untimed(at_once.body) == untimed(by_the_app.content)


def untimed(body: bytes) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(body)
    made.pop("latency_ms", None)
    return made


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/predict", b""),
        ("GET", "/v2/health/ready", b""),
        ("POST", "/models/nobody/predict", IMAGES[0].tobytes()),
        ("POST", "/v2/models/tiny/versions/1.0.0/infer", infer()),
        ("POST", "/v2/models/tiny/infer", infer(shape=[2, 8, 8, 1], data=[0.0] * 128)),
        ("POST", "/v2/models/tiny/infer", infer(datatype="BYTES", shape=[1], data=["x"])),
        ("POST", "/v2/repository/index", b""),
    ],
)
async def test_what_is_not_short_is_left_to_the_app_and_not_counted(
    server: Server, method: str, path: str, body: bytes
) -> None:
    assert server.at_once(path, body, {}, method) is None
    assert server.counted() == {}


async def test_models_that_the_workers_answer_for_are_left_to_the_app(patient: Server) -> None:
    for path, body, headers in SAME.values():
        assert patient.at_once(path, body, headers) is None
    reply = await patient.by_the_app("/predict", IMAGES[1].tobytes(), RAW)
    assert reply.json()["label"] == LABELS[1]


async def test_large_inputs_are_left_to_the_app(server: Server) -> None:
    large = encode_png(IMAGES[1]) + b"\0" * 9000
    assert server.at_once("/predict", large, {"content-type": "image/png"}) is None
    reply = await server.by_the_app("/predict", large, {"content-type": "image/png"})
    assert reply.json()["label"] == LABELS[1]


async def test_large_documents_are_left_to_the_app_which_reads_them_apart(server: Server) -> None:
    spaces = b" " * 70_000
    for path, body in (("/predict", json.dumps({"array": IMAGES[1].tolist()}).encode()), SAME["infer"][:2]):
        assert server.at_once(path, body, JSON) is not None
        assert server.at_once(path, body + spaces, JSON) is None


async def test_which_model_must_be_said_where_there_are_several(tmp_path: Path) -> None:
    two = Server(tmp_path, PoolSettings(workers=1, inline_ms=ALWAYS_MS), "tiny", "other")
    await two.models.open()
    assert two.at_once("/predict", IMAGES[0].tobytes(), RAW) is None
    made = two.at_once("/models/other/predict", IMAGES[0].tobytes(), RAW)
    assert made is not None
    assert json.loads(made.body)["bundle"] == "other@1.0.0"
    await two.models.close()


async def test_nothing_is_answered_at_once_at_the_end(server: Server) -> None:
    server.routes.stopping = True
    assert server.at_once("/predict", IMAGES[0].tobytes(), RAW) is None
