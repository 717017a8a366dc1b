"""Malformed requests, some thousands of them, to a real server: it answers each, knows no bug, and does not grow."""

import json
import random
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
import pytest

from builders import LABELS, make_bundle
from edgeloop.runtime.input.images import encode_png
from served import IMAGES, TIMEOUT_S, Served, Start, starting

MOST_GROWN_MIB = 16
"""Of resident memory after the first fifth: measured 0.1 to 1.5; allocators keep a few MiB for each thread."""

PIXELS = (IMAGES[..., None] / 255.0).astype(np.float32)
PATHS = ["/predict", "/models/tiny/predict", "/v2/models/tiny/infer", "/v2/models/tiny/versions/1.0.0/infer"]
OTHERS = [
    "/v2",
    "/v2/models/tiny",
    "/v2/repository/index",
    "/v2/repository/models/x/load",
    "/metrics",
    "/",
    "/%00",
    "//",
]
KINDS = [
    "application/json",
    "application/octet-stream",
    "image/png",
    "image/jpeg",
    "text/csv",
    "audio/wav",
    "",
    "\xff/",
]
NASTY: list[Any] = [
    None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, -(2**63), 1e308, -0.0, 0.5, "", "1", "é",
    "x" * 5000,
    [], [[]], {}, [1, [2]], [None], {"a": []}, "FP32", "BYTES", "FP64", "binary_data_size",
]  # fmt: skip
HEADER_VALUES = ["", "-1", "0", "1", "28,28", "8,8", "8,8,1", "999999999999,9", "9" * 400, "x", "1.5", "uint8",
                 "float32", "gzip", "identity", "\xff", "²", "18446744073709551616,0", "0,0"]  # fmt: skip
HEADERS = ["X-Shape", "X-Dtype", "X-Deadline-Ms", "Content-Encoding", "Inference-Header-Content-Length", "Content-Type"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with starting(tmp_path_factory.mktemp("serve")) as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Served:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "watched").mkdir()
    return start(make_bundle(folder), "--watch", folder / "watched", "--max-body-mb", "1", "--max-body-s", "5")


# ---- what is asked


def document(rng: random.Random) -> Any:
    """An inference request, bent at a place or two."""
    given = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "FP32", "data": PIXELS[0].ravel().tolist()}
    if rng.random() < 0.3:
        given |= {"datatype": "BYTES", "shape": [1], "data": ["text"]}
    made: Any = {"id": "q", "inputs": [given], "outputs": [{"name": "logits"}], "parameters": {"timeout": 5_000_000}}
    for _ in range(rng.randint(1, 3)):
        made = bent(rng, made)
    return made


def bent(rng: random.Random, value: Any) -> Any:
    """One place of it is something else, or not there."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {name: one for name, one in value.items() if name != key}
        if rng.random() < 0.15:
            key = rng.choice(["parameters", "data", "shape", "outputs", "array", "id"])
        return value | {key: bent(rng, value.get(key))}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], bent(rng, value[at]), *value[at + 1 :]]
    if rng.random() < 0.2:
        return {rng.choice(["binary_data_size", "binary_data", "classification", "timeout"]): rng.choice(NASTY)}
    return rng.choice(NASTY)


def body(rng: random.Random) -> bytes:
    choice = rng.randrange(8)
    if choice < 3:
        return json.dumps(document(rng)).encode()
    if choice == 3:
        return json.dumps({"array": bent(rng, IMAGES[0].tolist())}).encode()
    if choice == 4:
        return rng.choice(
            [b"[" * 20_000, b'{"array":' + b"[" * 5000 + b"]" * 5000 + b"}", b'{"array":[1e999]}', b"\xff"]
        )
    if choice == 5:
        tail = rng.randbytes(rng.choice([0, 3, 4, 8, 256]))
        given = {"name": "image", "shape": [1, 8, 8, 1], "datatype": rng.choice(["FP32", "BYTES"])}
        given |= {"parameters": {"binary_data_size": rng.choice([len(tail), *NASTY])}}
        return json.dumps({"inputs": [given]}).encode() + tail
    whole = bytearray(encode_png(IMAGES[0]) if choice == 6 else IMAGES[0].tobytes())
    for _ in range(rng.randint(1, 4)):
        whole[rng.randrange(len(whole))] = rng.randrange(256)
    return bytes(whole[: rng.randint(0, len(whole))])


def well_framed(rng: random.Random) -> bytes:
    """HTTP as it should be, of which nothing else need be."""
    made = body(rng)
    path = rng.choice(PATHS if rng.random() < 0.85 else OTHERS)
    method = "POST" if rng.random() < 0.95 else rng.choice(["GET", "PUT", "HEAD", "OPTIONS", "DELETE"])
    headers = [("Content-Type", rng.choice(KINDS))]
    headers += [(rng.choice(HEADERS), rng.choice(HEADER_VALUES)) for _ in range(rng.randrange(3))]
    if rng.random() < 0.3:
        headers.append(
            ("Inference-Header-Content-Length", str(rng.choice([len(made), rng.randint(0, len(made)), 2**70])))
        )
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers)]
    if rng.random() < 0.2:
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (made[:7], made[7:]) if part) + b"0\r\n\r\n"
        return "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode("latin-1") + chunks
    return "\r\n".join([*lines, f"Content-Length: {len(made)}", "", ""]).encode("latin-1") + made


def ill_framed(rng: random.Random) -> bytes:
    """HTTP with a few bytes changed, taken out or put in, or cut off."""
    made = bytearray(well_framed(rng))
    head = made.find(b"\r\n\r\n") + 4
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(head if rng.random() < 0.8 else len(made))
        match rng.randrange(4):
            case 0:
                made[at] = rng.randrange(256)
            case 1:
                del made[at : at + rng.randint(1, 8)]
            case 2:
                made[at:at] = rng.choice(
                    [b"\r\n", b"\0", b":", b" ", b"Content-Length: 5\r\n", b"Expect: 100-continue\r\n"]
                )
            case _:
                del made[max(at, 20) :]
        head = min(head, len(made))
        if head < 1:
            break
    return bytes(made)


# ---- what is answered


def answers(address: tuple[str, int], sent: bytes) -> list[tuple[int, bytes]]:
    """All answers to what is sent on a connection of its own, up to the first that is not 100."""
    got = b""
    has_body = not sent.startswith(b"HEAD")
    with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
        try:
            connection.sendall(sent)
            connection.settimeout(0.05)
            while not is_answered(split(got, has_body=has_body)):
                part = received(connection)
                if not part:
                    break
                got += part
        except ConnectionError:  # it ended the connection while more was on its way
            pass
    return split(got, has_body=has_body)


def received(connection: socket.socket) -> bytes:
    """What comes next. If nothing does, it is told that the request goes no further; then something must."""
    try:
        return connection.recv(1 << 16)
    except TimeoutError:
        if connection.gettimeout() == TIMEOUT_S:
            raise
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(TIMEOUT_S)
        return connection.recv(1 << 16)


def is_answered(found: list[tuple[int, bytes]]) -> bool:
    return bool(found) and found[-1][0] != 100


def split(got: bytes, *, has_body: bool) -> list[tuple[int, bytes]]:
    """The whole answers in it, with their bodies."""
    found: list[tuple[int, bytes]] = []
    while True:
        head, end, rest = got.partition(b"\r\n\r\n")
        if not end:
            return found
        lines = head.decode("latin-1").lower().split("\r\n")
        sizes = [int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")]
        size = sum(sizes) if has_body else 0
        if len(rest) < size:
            return found
        found.append((int(lines[0].split()[1]), rest[:size]))
        got = rest[size:]


@pytest.mark.parametrize(
    ("kind", "cases"), [(well_framed, 4000), (ill_framed, 1200)], ids=["well framed", "ill framed"]
)
def test_malformed_requests_get_clear_answers_and_leave_nothing_behind(server: Served, kind: Any, cases: int) -> None:
    assert server.process.handle is not None
    process = psutil.Process(server.process.handle.pid)
    seen: Counter[int] = Counter()
    early = (0.0, 0, 0)
    for number in range(cases):
        sent = kind(random.Random(f"{kind.__name__} {number}"))
        made = answers(server.address, sent)
        for status, told in made:
            seen[status] += 1
            assert status < 500 or status == 503, f"case {number}: {status} {told[:300]!r} to {sent[:300]!r}"
            if kind is well_framed and status >= 400 and told:
                error = json.loads(told)
                assert set(error) == {"error", "code"}, f"case {number}: {error}"
                assert 20 <= len(error["error"]) <= 4100, f"case {number}: {error}"
        if kind is well_framed:
            assert made, f"case {number} was not answered: {sent[:300]!r}"
        if number == cases // 5:
            early = used(process)
    status, _, answered = server.ask()
    assert (status, json.loads(answered)["label"]) == (200, LABELS[0])
    late = used(process)
    assert late[0] - early[0] < MOST_GROWN_MIB
    assert late[1] - early[1] <= 3  # descriptors: this test's own last connections may still be closing
    assert late[2] - early[2] <= 6  # threads: of the executors, which start one when none is idle
    assert server.metric("edgeloop_queue_depth") == 0
    assert server.metric("edgeloop_requests_total", 'code="500"') == 0
    assert 400 in seen


def used(process: psutil.Process) -> tuple[float, int, int]:
    """Resident memory in MiB, descriptors and threads."""
    return process.memory_info().rss / 2**20, process.num_fds(), process.num_threads()
