"""A real server process, asked by clients that are not ours: over loopback, under load, and to its end."""

import http.client
import itertools
import json
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders import LABELS, Damage, make_bundle, make_parts, pack, quadrant_images, quadrant_weights
from edgeloop.runtime.input.images import encode_png
from processes import Process
from serving import slow_quadrants

IMAGES = quadrant_images(4, seed=5)
PIXELS = (IMAGES[..., None] / 255.0).astype(np.float32)
RAW = {"content-type": "application/octet-stream"}
TIMEOUT_S = 30.0

Start = Callable[..., "Served"]


class Served:
    """A server process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.host = process.start()["url"].removeprefix("http://")
        name, _, port = self.host.partition(":")
        self.address = (name, int(port))

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, timeout=TIMEOUT_S)

    def ask(
        self, body: bytes = IMAGES[0].tobytes(), path: str = "/predict", method: str = "POST", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = self.connect()
        try:
            return asked(connection, body, path, method=method, **headers)
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        text = self.ask(b"", "/metrics", "GET")[2].decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + "{"))

    def send(self, number: signal.Signals) -> None:
        assert self.process.handle is not None
        self.process.handle.send_signal(number)


def asked(
    connection: http.client.HTTPConnection, body: bytes, path: str = "/predict", *, method: str = "POST", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in (RAW | headers).items()})
    reply = connection.getresponse()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    running: list[Process] = []
    folder = tmp_path_factory.mktemp("serve")

    def started(*arguments: str | Path) -> Served:
        told = ("-m", "edgeloop", "serve", "--json", "--port", "0", "--no-race", *map(str, arguments))
        running.append(Process(*told, log=folder / f"{len(running)}.log"))
        return Served(running[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield started
    for process in running:
        process.stop()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Served:
    """Answers within tens of microseconds."""
    return start(make_bundle(tmp_path_factory.mktemp("tiny")), "--max-body-mb", "1")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Served:
    """Answers within tens of milliseconds, one at a time, and lets four wait."""
    limits = ("--workers", "1", "--queue", "4", "--max-batch", "1")
    return start(slow_bundle(tmp_path_factory.mktemp("slow"), work=100), *limits)


def slow_bundle(folder: Path, *, work: int) -> Path:
    return pack(make_parts().with_model(slow_quadrants(quadrant_weights(), work=work)), folder)


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end_s, "it did not come about in time"


# ---- the Open Inference Protocol, as tritonclient speaks it


def test_tritonclient_reads_metadata_infers_and_manages_the_repository(tmp_path: Path, start: Start) -> None:
    triton = pytest.importorskip("tritonclient.http")
    watched = tmp_path / "watched"
    watched.mkdir()
    server = start(make_bundle(tmp_path), "--watch", watched)
    client = triton.InferenceServerClient(server.host)
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny", "1.0.0")
        assert not client.is_model_ready("nobody")
        assert client.get_server_metadata()["name"] == "edgeloop"
        assert client.get_model_metadata("tiny")["inputs"][0]["shape"] == [-1, 8, 8, 1]
        for binary in (True, False):
            _check_outputs(triton, client, binary=binary)
        _check_predictions(triton, client)
        _check_errors(triton, client)
        make_bundle(watched, name="other", version="2.0.0")
        client.load_model("other")
        assert client.is_model_ready("other")
        assert {row["name"]: row["state"] for row in client.get_model_repository_index()} == {
            "tiny": "READY",
            "other": "READY",
        }
        client.unload_model("other")
        assert not client.is_model_ready("other")
    finally:
        client.close()


def _check_outputs(triton: Any, client: Any, *, binary: bool) -> None:
    given = triton.InferInput("image", [4, 8, 8, 1], "FP32")
    given.set_data_from_numpy(PIXELS, binary_data=binary)
    # float32 through 64 additions of logits up to 20
    near = {"rtol": 1e-4, "atol": 1e-4}
    made = client.infer("tiny", [given], request_id="q", timeout=20_000_000)
    assert made.get_response()["id"] == "q"
    np.testing.assert_allclose(made.as_numpy("logits"), quadrant_weights().logits(IMAGES), **near)
    np.testing.assert_allclose(made.as_numpy("features"), quadrant_weights().features(IMAGES), **near)
    wanted = [triton.InferRequestedOutput("features", binary_data=binary)]
    made = client.infer("tiny", [given], model_version="1.0.0", outputs=wanted)
    assert [one["name"] for one in made.get_response()["outputs"]] == ["features"]
    np.testing.assert_allclose(made.as_numpy("features"), quadrant_weights().features(IMAGES), **near)


def _check_predictions(triton: Any, client: Any) -> None:
    given = triton.InferInput("image", [4], "BYTES")
    given.set_data_from_numpy(np.array([encode_png(image) for image in IMAGES], dtype=np.object_))
    made = client.infer("tiny", [given]).as_numpy("prediction")
    assert [json.loads(one)["label"] for one in made] == list(LABELS)


def _check_errors(triton: Any, client: Any) -> None:
    wrong = triton.InferInput("image", [1, 4, 4, 1], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 4, 4, 1), np.float32))
    with pytest.raises(triton.InferenceServerException, match=r"must be FP32 of shape \[-1, 8, 8, 1\]"):
        client.infer("tiny", [wrong])
    with pytest.raises(triton.InferenceServerException, match="no model 'nobody'"):
        client.infer("nobody", [wrong])


# ---- bodies


def test_bodies_of_all_kinds_are_answered_on_one_connection(tiny: Served) -> None:
    connection = tiny.connect()
    bodies = [
        (encode_png(IMAGES[1]), "image/png"),
        (IMAGES[1].tobytes(), "application/octet-stream"),
        (json.dumps({"array": IMAGES[1].tolist()}).encode(), "application/json"),
    ]
    for body, kind in bodies:
        status, _, made = asked(connection, body, content_type=kind)
        assert (status, json.loads(made)["label"]) == (200, LABELS[1])
    connection.close()


def test_oversized_body_is_turned_away_before_it_is_read(tiny: Served) -> None:
    connection = tiny.connect()
    connection.putrequest("POST", "/predict")
    connection.putheader("content-length", str(10**12))
    connection.endheaders()
    reply = connection.getresponse()
    assert (reply.status, reply.getheader("connection")) == (413, "close")
    connection.close()


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"POST /predict HTTP/1.1\r\ncontent-length: -5\r\n\r\n", b"\0" * 100],
    ids=["tls", "no address", "negative length", "zeros"],
)
def test_what_is_no_http_is_told_so_and_the_server_answers_others(tiny: Served, garbage: bytes) -> None:
    with socket.create_connection(tiny.address, timeout=TIMEOUT_S) as connection:
        connection.sendall(garbage)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert tiny.ask()[0] == 200


def test_image_that_decodes_to_more_than_is_taken_is_refused(tiny: Served) -> None:
    bomb = encode_png(np.zeros((9000, 9000), np.uint8))
    assert len(bomb) < 1024 * 1024
    assert tiny.ask(bomb, content_type="image/png")[0] == 400
    assert tiny.ask()[0] == 200


# ---- load


def test_flood_is_turned_away_with_a_time_to_come_back_and_nothing_piles_up(slow: Served) -> None:
    seen: Counter[int] = Counter()
    deepest = 0.0

    def client(_: int) -> list[tuple[int, str]]:
        connection = slow.connect()
        replies = [asked(connection, IMAGES[0].tobytes())[:2] for _ in range(10)]
        connection.close()
        return [(status, headers.get("retry-after", "")) for status, headers in replies]

    with ThreadPoolExecutor(16) as clients:
        flood = [clients.submit(client, number) for number in range(16)]
        while not all(one.done() for one in flood):
            deepest = max(deepest, slow.metric("edgeloop_queue_depth"))
    for status, retry_after in itertools.chain.from_iterable(one.result() for one in flood):
        seen[status] += 1
        assert (status == 429) == (retry_after.isdigit() and int(retry_after) >= 1)
    assert set(seen) == {200, 429}
    assert 0 < deepest <= 4
    assert slow.metric("edgeloop_queue_depth") == 0
    status, _, made = slow.ask()
    assert (status, json.loads(made)["label"]) == (200, LABELS[0])


def test_request_whose_deadline_cannot_be_held_is_turned_away(slow: Served) -> None:
    over = threading.Event()

    def keep_asking() -> set[int]:
        seen = set()
        while not over.is_set():
            seen.add(slow.ask()[0])
        return seen

    with ThreadPoolExecutor(4) as clients:
        waiting = [clients.submit(keep_asking) for _ in range(4)]
        try:
            # Among four that always wait, one of 1 ms is let in only in the moment in which none does.
            hasty = [slow.ask(x_deadline_ms="1")[0] for _ in range(30)]
        finally:
            over.set()
        assert 429 in hasty
        assert set(hasty) <= {200, 429, 503}
        assert set.union(*(one.result() for one in waiting)) <= {200, 429}


# ---- versions, under load


def test_swapping_versions_under_load_fails_no_request(tmp_path: Path, start: Start) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    server = start(make_bundle(tmp_path, version="1.0.0"), "--watch", watched)
    over = threading.Event()

    def client(number: int) -> Counter[tuple[int, str, bool]]:
        connection = server.connect()
        seen: Counter[tuple[int, str, bool]] = Counter()
        image = encode_png(IMAGES[number % 4]) + b"\0" * (9000 if number % 2 else 0)  # large ones go to the workers
        while not over.is_set():
            status, _, body = asked(connection, image, content_type="image/png")
            made = json.loads(body)
            seen[status, made.get("bundle", ""), made.get("label") == LABELS[number % 4]] += 1
        connection.close()
        return seen

    def answers_as(version: str) -> bool:
        return json.loads(server.ask()[2])["bundle"] == f"tiny@{version}"

    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(client, number) for number in range(8)]
        try:
            make_bundle(watched, version="1.0.1", damage=Damage.WEIGHTS)
            make_bundle(watched, version="1.0.2")
            until(lambda: answers_as("1.0.2"))  # found by itself
            make_bundle(watched, version="1.0.3")
            server.send(signal.SIGHUP)
            until(lambda: answers_as("1.0.3"))
            older = json.dumps({"parameters": {"version": "1.0.2"}}).encode()
            assert server.ask(older, "/v2/repository/models/tiny/load")[0] == 200
            assert answers_as("1.0.2")
        finally:
            over.set()
        seen = sum((one.result() for one in asking), Counter[tuple[int, str, bool]]())
    assert {status for status, _, _ in seen} == {200}
    assert all(is_right for _, _, is_right in seen)
    assert {bundle for _, bundle, _ in seen} == {"tiny@1.0.0", "tiny@1.0.2", "tiny@1.0.3"}


# ---- the end


def test_sigterm_answers_what_was_taken_and_says_farewell_to_the_rest(tmp_path: Path, start: Start) -> None:
    server = start(slow_bundle(tmp_path, work=200), "--workers", "1", "--max-batch", "1")
    idle = server.connect()
    assert asked(idle, b"", "/v2/health/ready", method="GET")[0] == 200
    with ThreadPoolExecutor(16) as clients:
        under_way = [clients.submit(server.ask) for _ in range(16)]
        until(lambda: server.metric("edgeloop_queue_depth") >= 8)
        server.send(signal.SIGTERM)
        farewell = next(_readiness(idle))
        assert farewell == (503, "close")
        assert {one.result()[0] for one in under_way} == {200}
    assert server.process.handle is not None
    assert server.process.handle.wait(timeout=TIMEOUT_S) == -signal.SIGTERM
    with pytest.raises(ConnectionRefusedError):
        server.ask()


def _readiness(connection: http.client.HTTPConnection) -> Iterator[tuple[int, str | None]]:
    """What /ready answers once it is not 200 any more."""
    while True:
        status, headers, _ = asked(connection, b"", "/v2/health/ready", method="GET")
        if status != 200:
            yield status, headers.get("connection")
