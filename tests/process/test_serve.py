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

from builders import LABELS, Damage, make_bundle, make_parts, pack, quadrant_weights
from edgeloop.runtime.input.images import encode_png
from served import IMAGES, RAW, TIMEOUT_S, Served, Start, asked, starting
from serving import slow_quadrants, wide_quadrants

PIXELS = (IMAGES[..., None] / 255.0).astype(np.float32)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with starting(tmp_path_factory.mktemp("serve")) as started:
        yield started


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
    both = [
        triton.InferRequestedOutput("features", binary_data=binary),
        triton.InferRequestedOutput("logits", binary_data=not binary),
    ]
    made = client.infer("tiny", [given], outputs=both)
    assert [one["name"] for one in made.get_response()["outputs"]] == ["features", "logits"]
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
    with pytest.raises(triton.InferenceServerException, match=r"must be FP32 of shape \[-1, 8, 8, 1\]") as refused:
        client.infer("tiny", [wrong])
    assert refused.value.status() == "400"
    for datatype, dtype in (("FP64", np.float64), ("INT32", np.int32), ("UINT8", np.uint8), ("BOOL", np.bool_)):
        other = triton.InferInput("image", [1, 8, 8, 1], datatype)
        other.set_data_from_numpy(np.zeros((1, 8, 8, 1), dtype))
        with pytest.raises(triton.InferenceServerException, match=f"must be FP32 .* got {datatype}"):
            client.infer("tiny", [other])
    given = triton.InferInput("image", [1, 8, 8, 1], "FP32")
    given.set_data_from_numpy(PIXELS[:1])
    with pytest.raises(triton.InferenceServerException, match="no output 'boxes'"):
        client.infer("tiny", [given], outputs=[triton.InferRequestedOutput("boxes")])
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


# ---- clients that are slow, or go away


def test_body_that_does_not_come_is_given_up_while_others_are_answered(tmp_path: Path, start: Start) -> None:
    server = start(make_bundle(tmp_path), "--max-body-s", "0.3")
    with socket.create_connection(server.address, timeout=TIMEOUT_S) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\ncontent-length: 64\r\n\r\n" + b"x" * 10)
        assert server.ask()[0] == 200
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        assert (reply.status, reply.getheader("connection")) == (408, "close")
        assert "10 bytes of it were" in json.loads(reply.read())["error"]
        assert connection.recv(1) == b""
    assert server.metric("edgeloop_requests_total", 'code="408"') == 1


@pytest.mark.parametrize("after", [b"GET / HTTP/1.1\r\nx: ", b"GET /", b"POST /predict HTTP/1.1\r\ny: 1\r\nx"])
def test_head_without_an_end_is_cut_off(tiny: Served, after: bytes) -> None:
    with socket.create_connection(tiny.address, timeout=TIMEOUT_S) as connection:
        connection.sendall(after)
        with pytest.raises(ConnectionError):
            connection.sendall(b"x" * 100_000_000)
    assert tiny.ask()[0] == 200


def test_clients_that_hang_up_make_room_for_others_and_are_counted(tmp_path: Path, start: Start) -> None:
    server = start(slow_bundle(tmp_path, work=1500), "--workers", "1", "--queue", "4", "--max-batch", "1")
    hasty = [server.connect() for _ in range(4)]
    for connection in hasty:
        connection.request("POST", "/predict", IMAGES[0].tobytes(), RAW)
    until(lambda: server.metric("edgeloop_queue_depth") == 4)
    for connection in hasty:
        connection.close()
    until(lambda: server.metric("edgeloop_queue_depth") == 0)
    assert 3 <= server.metric("edgeloop_predictions_total", 'outcome="gone"') <= 4  # the first may have been answered
    status, _, made = server.ask()
    assert (status, json.loads(made)["label"]) == (200, LABELS[0])


# ---- batches


def test_clients_at_a_time_share_runs_where_that_pays_and_each_gets_its_own_answer(
    tmp_path: Path, start: Start
) -> None:
    wide = wide_quadrants(quadrant_weights(), width=2048, layers=2)
    server = start(pack(make_parts().with_model(wide), tmp_path), "--workers", "1")

    def client(number: int) -> Counter[tuple[int, bool]]:
        connection = server.connect()
        seen: Counter[tuple[int, bool]] = Counter()
        for turn in range(20):
            index = (number + turn) % 4
            status, _, made = asked(connection, IMAGES[index].tobytes())
            seen[status, json.loads(made).get("label") == LABELS[index]] += 1
        connection.close()
        return seen

    with ThreadPoolExecutor(8) as clients:
        seen = sum(clients.map(client, range(8)), Counter[tuple[int, bool]]())
    assert seen == {(200, True): 160}
    runs = server.metric("edgeloop_batch_size_count")
    assert server.metric("edgeloop_batch_size_sum") == 160
    assert runs < 160 - 10  # many a run was of several


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


def test_server_and_model_stay_ready_while_a_version_follows_another(tmp_path: Path, start: Start) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    server = start(make_bundle(tmp_path, version="1.0.0"), "--watch", watched)
    make_bundle(watched, version="1.0.1")
    seen: Counter[int] = Counter()
    connection = server.connect()
    for path in itertools.cycle(("/v2/health/ready", "/v2/health/live", "/v2/models/tiny/ready", "/v2/models/tiny")):
        status, _, made = asked(connection, b"", path, method="GET")
        seen[status] += 1
        if made and json.loads(made)["versions"] == ["1.0.1"]:
            break
    connection.close()
    assert set(seen) == {200}


# ---- the end


def test_sigterm_answers_what_was_taken_and_says_farewell_to_the_rest(tmp_path: Path, start: Start) -> None:
    server = start(slow_bundle(tmp_path, work=600), "--workers", "1", "--max-batch", "1")
    idle = server.connect()
    assert asked(idle, b"", "/v2/health/ready", method="GET")[0] == 200
    with ThreadPoolExecutor(16) as clients:
        under_way = [clients.submit(server.ask) for _ in range(16)]
        until(lambda: server.metric("edgeloop_queue_depth") >= 8)
        server.send(signal.SIGTERM)
        farewell = next(_readiness(idle))
        assert farewell == (503, "close")
        answers = [one.result()[0] for one in under_way]
        # Eight at the least were taken when the signal came; a client that was slow to ask is one of the rest.
        assert answers.count(200) >= 8
        assert set(answers) <= {200, 503}
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
