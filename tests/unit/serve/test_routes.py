"""The addresses, asked in memory over the real app, models and engine."""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from builders import LABELS, SIDE_PX, Damage, make_bundle, make_parts, pack, quadrant_images, quadrant_weights
from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.pool import Pool, PoolSettings
from edgeloop.serve.askers import BodyLimits
from edgeloop.serve.config import ServeConfig
from edgeloop.serve.models import Model, Models
from edgeloop.serve.routes import Routes
from held import Held, begun, opened, servable

pytestmark = pytest.mark.anyio

IMAGES = quadrant_images(4, seed=5)
WEIGHTS = quadrant_weights()
BINARY = {"content-type": "application/octet-stream"}


class Server:
    """A server in memory: its app, a client of it, and what it watches."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.watched = folder / "watched"
        self.watched.mkdir()
        bundles = tuple(make_bundle(folder, name=name) for name in names)
        self.config = ServeConfig(
            bundles=bundles,
            watch=self.watched,
            race_s=0.0,
            bodies=BodyLimits(body_bytes=100_000, held_bytes=250_000),
            pool=PoolSettings(workers=1, max_queue=16),
        )
        self.models = Models(self.config)
        self.routes = Routes(self.models, self.config)
        transport = httpx.ASGITransport(app=self.routes)  # type: ignore[arg-type]
        self.client = httpx.AsyncClient(transport=transport, base_url="http://server")

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, bytes):
            return await self.client.post(path, content=body, headers=told)
        return await self.client.post(path, json=body, headers=told)

    async def get(self, path: str) -> httpx.Response:
        return await self.client.get(path)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path, "tiny")
    await made.models.open()
    yield made
    await made.client.aclose()
    await made.models.close()


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Server]:
    made = Server(tmp_path, "tiny", "other")
    await made.models.open()
    yield made
    await made.client.aclose()
    await made.models.close()


def tensor(**changed: Any) -> dict[str, Any]:
    values = (IMAGES[0] / 255.0).astype(np.float32)
    given = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "FP32", "data": values.ravel().tolist()}
    return {"inputs": [given | changed]}


# ---- predictions


@pytest.mark.parametrize("index", range(4))
async def test_image_raw_pixels_and_json_get_the_same_prediction(server: Server, index: int) -> None:
    replies = [
        await server.post("/predict", encode_png(IMAGES[index]), content_type="image/png"),
        await server.post("/models/tiny/predict", IMAGES[index].tobytes(), **BINARY),
        await server.post("/predict", {"array": IMAGES[index].tolist()}),
    ]
    made = [reply.json() for reply in replies]
    assert [one["label"] for one in made] == [LABELS[index]] * 3
    expected = WEIGHTS.probabilities(IMAGES[index : index + 1]).max()
    # float32 through 64 additions
    assert [one["score"] for one in made] == pytest.approx([expected] * 3, abs=1e-5)


async def test_which_model_must_be_said_where_there_are_several(two: Server) -> None:
    reply = await two.post("/predict", IMAGES[0].tobytes(), **BINARY)
    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    assert "other, tiny" in reply.json()["error"]
    assert (await two.post("/models/other/predict", IMAGES[0].tobytes(), **BINARY)).json()["bundle"] == "other@1.0.0"


WRONG = [
    ("POST", "/predict", b"", BINARY, 400, "empty"),
    ("POST", "/predict", b"no image", {"content-type": "image/png"}, 400, "no image"),
    ("POST", "/predict", b"1,2", {"content-type": "text/csv"}, 415, "image/*"),
    ("POST", "/predict", b"123", BINARY, 400, "X-Shape"),
    ("POST", "/predict", b"{", {"content-type": "application/json"}, 400, "JSON"),
    ("POST", "/predict", b"0" * 64, BINARY | {"x-deadline-ms": "soon"}, 400, "X-Deadline-Ms"),
    ("POST", "/predict", b"0" * 64, BINARY | {"x-deadline-ms": "0"}, 400, "X-Deadline-Ms"),
    ("POST", "/predict", b"0" * 100_001, BINARY, 413, "100,000"),
    ("POST", "/models/nobody/predict", b"0" * 64, BINARY, 404, "there is tiny"),
    ("GET", "/predict", b"", {}, 405, "POST"),
    ("POST", "/v2", b"", {}, 405, "GET"),
    ("GET", "/", b"", {}, 404, "/models/NAME/predict"),
    ("GET", "/v2/models/nobody", b"", {}, 404, "nobody"),
    ("GET", "/v2/models/tiny/versions/9.9.9", b"", {}, 404, "version 1.0.0"),
    ("POST", "/v2/models/tiny/versions/9.9.9/infer", b"{}", {}, 404, "version 1.0.0"),
    ("POST", "/v2/models/tiny/infer", b"{}", {}, 400, "inputs"),
    ("POST", "/v2/models/tiny/infer", b"x", {"inference-header-content-length": "5"}, 400, "Content-Length"),
    ("POST", "/v2/models/tiny/infer", b"x", {"content-encoding": "gzip"}, 400, "compressed"),
    ("POST", "/v2/repository/models/nobody/load", b"", {}, 404, "holds no nobody"),
    ("POST", "/v2/repository/models/nobody/unload", b"", {}, 404, "nobody"),
    ("POST", "/v2/repository/models/tiny/load", b'{"parameters": {"config": "{}"}}', {}, 400, "config"),
    ("POST", "/v2/repository/models/..%2Ftiny/load", b"", {}, 404, ""),
]


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "told"), WRONG)
async def test_wrong_request_is_told_what_was_expected(
    server: Server, method: str, path: str, body: bytes, headers: dict[str, str], status: int, told: str
) -> None:
    reply = await server.client.request(method, path, content=body, headers=headers)
    assert reply.status_code == status
    assert told in reply.json()["error"]
    assert (await server.post("/predict", IMAGES[0].tobytes(), **BINARY)).status_code == 200


# ---- Open Inference Protocol


async def test_server_and_model_tell_what_they_are(server: Server) -> None:
    assert (await server.get("/v2")).json()["extensions"] == ["binary_tensor_data", "model_repository"]
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/tiny/ready",
        "/v2/models/tiny/versions/1.0.0/ready",
    ):
        assert (await server.get(path)).status_code == 200
    assert (await server.get("/v2/models/tiny")).json() == {
        "name": "tiny",
        "versions": ["1.0.0"],
        "platform": "edgeloop_onnxruntime",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 8, 8, 1]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "features", "datatype": "FP32", "shape": [-1, 4]},
        ],
    }


async def test_tensor_gets_the_models_outputs(server: Server) -> None:
    reply = (await server.post("/v2/models/tiny/versions/1.0.0/infer", tensor() | {"id": "q1"})).json()
    assert (reply["model_name"], reply["model_version"], reply["id"]) == ("tiny", "1.0.0", "q1")
    told = {one["name"]: one["data"] for one in reply["outputs"]}
    # float32 through 64 additions of logits up to 20
    np.testing.assert_allclose(told["logits"], WEIGHTS.logits(IMAGES[:1])[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(told["features"], WEIGHTS.features(IMAGES[:1])[0], rtol=1e-5, atol=1e-6)


async def test_batch_of_tensors_gets_a_batch_of_outputs_in_order(server: Server) -> None:
    values = (IMAGES / 255.0).astype(np.float32)
    asked = tensor(shape=[4, 8, 8, 1], data=values.tolist()) | {"outputs": [{"name": "logits"}]}
    (logits,) = (await server.post("/v2/models/tiny/infer", asked)).json()["outputs"]
    assert logits["shape"] == [4, 4]
    made = np.array(logits["data"]).reshape(4, 4)
    np.testing.assert_allclose(made, WEIGHTS.logits(IMAGES), rtol=1e-4, atol=1e-4)


async def test_encoded_images_get_predictions(server: Server) -> None:
    bodies = b"".join(len(one).to_bytes(4, "little") + one for one in map(encode_png, IMAGES))
    parameters = {"binary_data_size": len(bodies)}
    given = {"name": "image", "shape": [4], "datatype": "BYTES", "parameters": parameters}
    head = json.dumps({"inputs": [given]}).encode()
    reply = await server.post("/v2/models/tiny/infer", head + bodies, inference_header_content_length=str(len(head)))
    (made,) = reply.json()["outputs"]
    assert (made["name"], made["datatype"], made["shape"]) == ("prediction", "BYTES", [4])
    assert [json.loads(one)["label"] for one in made["data"]] == list(LABELS)


async def test_input_of_another_name_is_refused(server: Server) -> None:
    reply = await server.post("/v2/models/tiny/infer", tensor(name="picture"))
    assert (reply.status_code, "'image'" in reply.json()["error"]) == (400, True)


# ---- versions


async def test_newer_version_in_the_watched_folder_is_swapped_in(server: Server) -> None:
    make_bundle(server.watched, version="1.0.1")
    await server.models.rescan()
    assert (await server.get("/v2/models/tiny")).json()["versions"] == ["1.0.1"]
    assert (await server.post("/predict", IMAGES[0].tobytes(), **BINARY)).json()["bundle"] == "tiny@1.0.1"


async def test_older_version_and_other_names_in_the_watched_folder_are_left(server: Server) -> None:
    make_bundle(server.watched, version="0.9.0")
    make_bundle(server.watched, version="2.0.0", name="other")
    await server.models.rescan()
    assert {name: model.version for name, model in server.models.by_name.items()} == {"tiny": "1.0.0"}


@pytest.mark.parametrize("damage", list(Damage))
async def test_newer_version_that_fails_its_golden_samples_is_not_swapped_in(server: Server, damage: Damage) -> None:
    make_bundle(server.watched, version="1.0.1", damage=damage)
    await server.models.rescan()
    assert (await server.post("/predict", IMAGES[0].tobytes(), **BINARY)).json()["bundle"] == "tiny@1.0.0"
    assert server.models.get("tiny").swap_failures == 1
    refused = await server.post("/v2/repository/models/tiny/load", b"")
    assert (refused.status_code, refused.json()["code"]) == (403, "refused")


async def test_repository_lists_loads_and_unloads(server: Server) -> None:
    make_bundle(server.watched, name="other", version="1.0.0")
    make_bundle(server.watched, name="other", version="1.1.0")
    await server.models.rescan()
    rows = (await server.post("/v2/repository/index", b"")).json()
    assert {(row["name"], row["version"], row["state"]) for row in rows} == {
        ("tiny", "1.0.0", "READY"),
        ("other", "1.0.0", "UNAVAILABLE"),
        ("other", "1.1.0", "UNAVAILABLE"),
    }
    assert (await server.post("/v2/repository/models/other/load", {})).status_code == 200
    assert server.models.get("other").version == "1.1.0"
    older = {"parameters": {"version": "1.0.0"}}
    assert (await server.post("/v2/repository/models/other/load", older)).status_code == 200
    assert server.models.get("other").version == "1.0.0"
    await server.models.rescan()  # nothing new appeared: what a person chose stays
    assert server.models.get("other").version == "1.0.0"
    assert (await server.post("/v2/repository/models/other/unload", {})).status_code == 200
    assert (await server.get("/v2/models/other/ready")).status_code == 404
    ready = (await server.post("/v2/repository/index", {"ready": True})).json()
    assert [row["name"] for row in ready] == ["tiny"]


async def test_nothing_is_loaded_or_unloaded_where_no_folder_is_watched(tmp_path: Path) -> None:
    config = ServeConfig(bundles=(make_bundle(tmp_path),), race_s=0.0, pool=PoolSettings(workers=1))
    models = Models(config)
    await models.open()
    transport = httpx.ASGITransport(app=Routes(models, config))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        for verb in ("load", "unload"):
            reply = await client.post(f"/v2/repository/models/tiny/{verb}")
            assert (reply.status_code, "--watch" in reply.json()["error"]) == (403, True)
    await models.close()


OTHER_INPUT = InputSpec("image", Modality.IMAGE, (1, SIDE_PX, SIDE_PX, 1), "NHWC", (0.0, 2.0))


@pytest.mark.parametrize(
    ("fields", "told"),
    [({"labels": ("a", "b", "c", "d")}, "labels from ['top_left'"), ({"input": OTHER_INPUT}, "input from")],
    ids=["labels", "input"],
)
async def test_version_that_promises_otherwise_takes_the_name_only_if_it_is_asked_for_by_version(
    server: Server, fields: dict[str, Any], told: str
) -> None:
    pack(make_parts(version="1.0.1").changed(**fields), server.watched)
    await server.models.rescan()
    refused = await server.post("/v2/repository/models/tiny/load", {})
    assert (refused.status_code, refused.json()["code"]) == (403, "refused")
    assert told in refused.json()["error"]
    assert server.models.get("tiny").version == "1.0.0"
    assert server.models.get("tiny").swap_failures == 2
    by_version = {"parameters": {"version": "1.0.1"}}
    assert (await server.post("/v2/repository/models/tiny/load", by_version)).status_code == 200
    made = (await server.post("/predict", IMAGES[2].tobytes(), **BINARY)).json()
    assert made["label"] == fields.get("labels", LABELS)[2]


@pytest.mark.parametrize(("name", "version"), [("tina", "1.0.1"), ("tiny", "3.0.0")])
async def test_file_that_became_another_bundle_is_refused(
    server: Server, tmp_path: Path, name: str, version: str
) -> None:
    path = make_bundle(server.watched, version="1.0.1")
    before = path.stat()
    await server.models.index()  # looked at
    other = make_bundle(tmp_path, name=name, version=version)
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size  # or a look would see the change
    refused = await server.post("/v2/repository/models/tiny/load", {"parameters": {"version": "1.0.1"}})
    assert (refused.status_code, refused.json()["code"]) == (403, "refused")
    assert f"was tiny@1.0.1 when it was looked at and is {name}@{version} now" in refused.json()["error"]
    assert {one: model.version for one, model in server.models.by_name.items()} == {"tiny": "1.0.0"}


# ---- the end, and the figures


async def test_new_requests_are_turned_away_at_the_end(server: Server) -> None:
    server.routes.stopping = True
    for path in ("/v2/health/ready", "/v2"):
        reply = await server.get(path)
        assert (reply.status_code, reply.headers["connection"]) == (503, "close")


async def held_model(server: Server, held: Held) -> Model:
    """The server's model, with a runner that a test holds by the hand."""
    former = server.models.by_name["tiny"]
    await former.pool.close()
    pool = await Pool.open(servable("tiny", held), PoolSettings(workers=1, max_queue=4, inline_ms=0))
    server.models.by_name["tiny"] = Model("tiny", pool)
    return server.models.by_name["tiny"]


class Client:
    """One request as an ASGI server hands it over, by a client that can hang up."""

    def __init__(self, server: Server, path: str, body: bytes = b"x") -> None:
        self.sent: list[Any] = []
        self._body = [body]
        self._hung_up = asyncio.Event()
        scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"content-type", b"image/png")]}
        self.asking = asyncio.ensure_future(server.routes(scope, self._receive, self._send))

    async def hang_up(self) -> None:
        self._hung_up.set()
        await self.asking

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return {"type": "http.request", "body": self._body.pop()}
        await self._hung_up.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


async def test_request_of_a_client_who_hangs_up_leaves_the_queue_and_is_counted(server: Server) -> None:
    pytest.importorskip("prometheus_client")
    held = Held()
    model = await held_model(server, held)
    first, second, third = [Client(server, "/predict", b"%d" % index) for index in range(3)]
    await begun(held)
    await second.hang_up()
    assert (model.pool.depth, second.sent) == (2, [])
    held.gate.set()
    await asyncio.gather(first.asking, third.asking)
    assert [client.sent[0]["status"] for client in (first, third)] == [200, 200]
    assert held.asked == [b"0", b"2"]
    lines = (await server.get("/metrics")).text.splitlines()
    assert 'edgeloop_predictions_total{model="tiny",outcome="gone"} 1.0' in lines
    assert 'edgeloop_predictions_total{model="tiny",outcome="answered"} 2.0' in lines
    answered = [line for line in lines if line.startswith("edgeloop_requests_total{")]
    assert answered == ['edgeloop_requests_total{code="200",model="tiny",version="1.0.0"} 2.0']


async def test_load_is_carried_through_though_its_asker_goes_away(server: Server) -> None:
    make_bundle(server.watched, name="other")
    client = Client(server, "/v2/repository/models/other/load", b"{}")
    await asyncio.sleep(0)
    client.asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client.asking
    assert (client.sent, "other" in server.models.by_name) == ([], False)
    while "other" not in server.models.by_name:
        await asyncio.sleep(0.001)
    assert (await server.post("/models/other/predict", IMAGES[0].tobytes(), **BINARY)).status_code == 200


async def test_load_that_meets_the_end_loads_nothing_and_leaves_no_thread(tmp_path: Path) -> None:
    made = Server(tmp_path, "tiny")
    await made.models.open()
    make_bundle(made.watched, name="other")
    before = {thread for thread in threading.enumerate() if thread.name.startswith("other@")}
    loading = asyncio.ensure_future(made.post("/v2/repository/models/other/load", {}))
    await asyncio.sleep(0)
    await made.models.close()
    reply = await loading
    assert (reply.status_code, "shutting down" in reply.json()["error"]) == (503, True)
    assert made.models.by_name == {}
    assert {thread for thread in threading.enumerate() if thread.name.startswith("other@")} == before
    await made.client.aclose()


async def test_bug_is_answered_500_and_counted_once(server: Server) -> None:
    pytest.importorskip("prometheus_client")
    held = opened()
    held.fail = ZeroDivisionError("a bug")
    await held_model(server, held)
    for path, body in (("/predict", b"image"), ("/models/tiny/predict", b"image")):
        reply = await server.post(path, body, content_type="image/png")
        assert (reply.status_code, reply.json()["code"]) == (500, "error")
    lines = (await server.get("/metrics")).text.splitlines()
    assert [line for line in lines if 'code="500"' in line] == [
        'edgeloop_requests_total{code="500",model="tiny",version="1.0.0"} 2.0'
    ]
    assert 'edgeloop_request_seconds_count{model="tiny",version="1.0.0"} 2.0' in lines
    assert 'edgeloop_predictions_total{model="tiny",outcome="failed"} 2.0' in lines


async def test_bug_of_no_model_is_answered_500_and_counted_once(server: Server) -> None:
    pytest.importorskip("prometheus_client")
    server.models.by_name["tiny"].pool = None  # type: ignore[assignment]
    assert (await server.get("/v2/models/tiny")).status_code == 500
    del server.models.by_name["tiny"]
    lines = (await server.get("/metrics")).text.splitlines()
    assert [line for line in lines if 'code="500"' in line] == [
        'edgeloop_requests_total{code="500",model="",version=""} 1.0'
    ]


async def test_body_for_which_there_is_no_room_is_turned_away_and_told_when_to_come_back(server: Server) -> None:
    held = Held()
    await held_model(server, held)
    size = server.config.bodies.body_bytes
    waiting = [Client(server, "/predict", b"x" * size) for _ in range(2)]
    await begun(held)
    reply = await server.post("/predict", b"x" * size, content_type="image/png")
    assert (reply.status_code, reply.headers["retry-after"], reply.headers["connection"]) == (429, "1", "close")
    assert f"{size:,} more do not fit" in reply.json()["error"]
    held.gate.set()
    await asyncio.gather(*(client.asking for client in waiting))
    assert (await server.post("/predict", b"x" * size, content_type="image/png")).status_code == 200


async def test_request_that_breaks_off_is_not_answered(server: Server) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await server.routes({"type": "http", "method": "POST", "path": "/predict", "headers": []}, receive, send)
    assert sent == []


async def test_metrics_count_what_was_done(server: Server) -> None:
    pytest.importorskip("prometheus_client")
    for body in (IMAGES[0].tobytes(), IMAGES[1].tobytes(), b"123"):
        await server.post("/predict", body, **BINARY)
    await server.get("/nowhere")
    make_bundle(server.watched, version="1.0.1")
    await server.models.rescan()
    await asyncio.gather(*(server.post("/predict", IMAGES[0].tobytes(), **BINARY) for _ in range(3)))
    lines = (await server.get("/metrics")).text.splitlines()
    for wanted in (
        'edgeloop_requests_total{code="200",model="tiny",version="1.0.0"} 2.0',
        'edgeloop_requests_total{code="400",model="tiny",version="1.0.0"} 1.0',
        'edgeloop_requests_total{code="404",model="",version=""} 1.0',
        'edgeloop_requests_total{code="200",model="tiny",version="1.0.1"} 3.0',
        'edgeloop_request_seconds_count{model="tiny",version="1.0.0"} 3.0',
        'edgeloop_predictions_total{model="tiny",outcome="answered"} 5.0',
        'edgeloop_batch_size_bucket{le="1",model="tiny"} 5.0',
        'edgeloop_queue_depth{model="tiny"} 0.0',
        'edgeloop_queue_limit{model="tiny"} 16.0',
        'edgeloop_swaps_total{model="tiny",outcome="swapped"} 1.0',
    ):
        assert wanted in lines
