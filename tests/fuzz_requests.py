"""Malformed requests at a real cloud, some thousands of them: the REST API out of its OpenAPI, the hub's routes raw.

    python tests/fuzz_requests.py --cases 100000 --seed 1      both, half each; a report as JSON

The cloud is a process of its own whose limits let everything through, so that each request is looked at. It must
answer each one, know no bug (no 500), and not grow. Requests are drawn by Schemathesis and by a seeded generator: the
same seed gives the same requests.
"""

import argparse
import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import msgspec
import psutil
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, Phase

from edgeloop.contracts.api import DeviceView, ReadingView
from edgeloop.contracts.codec import from_json, to_msgpack
from edgeloop.contracts.join import enrol_statement
from edgeloop.contracts.messages import (
    EnrolRequest,
    Health,
    InferRequest,
    SendRequest,
    SyncRequest,
    TrustHealth,
    UpdateReport,
    WatchStats,
)
from edgeloop.contracts.states import Kind, UpdateState
from edgeloop.transport.cloud_api import read_operator
from edgeloop.transport.identity import Identity
from processes import Process
from small_cloud import PROFILE, event, report, sample

TIMEOUT_S = 20.0
DEVICE = "camera-1"
BOMB = zstandard.compress(bytes(256 * 1024 * 1024))
NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63 - 1, -(2**63), 2**64 - 1, float("nan"), float("inf"), -0.0, 1e308, "", "\0", "..",
    "../../etc/passwd", "a" * 70_000, "é\u2028\ud7ff", b"", b"\0" * 40, [], {}, [[]], {"": None}, [None] * 3000,
)  # fmt: skip
PATHS = ("../cloud.db", "..%2f..%2fcloud.db", "%00", "a%00b", "director/x/metadata/timestamp.json", "//", "targets/",
         "images/metadata/99999999999999999999.root.json", "targets/files/" + "0" * 64, "x" * 5000, "%ff%fe", "é",
         "director/camera-1/metadata/..", "images/metadata/-1.targets.json", "targets/bundles/a/1/manifest.json",
         "director/camera-1/metadata/timestamp.json", "images/metadata/root.json", "\\..\\x", "%2e%2e")  # fmt: skip
HEADERS = ("range", "content-encoding", "signature", "signature-input", "content-digest", "content-type", "expect",
           "transfer-encoding", "authorization", "x-forwarded-for", "accept-encoding")  # fmt: skip
VALUES = ("", "-1", "bytes=0-", "bytes=-5", "bytes=9-1", "bytes=0-1,3-4", f"bytes={'9' * 15}-", "zstd", "gzip",
          "zstd, zstd", "edgeloop=x", "edgeloop=::", "sha-256=::", "x" * 9000, "100-continue", "Bearer x",
          "\xff", "²")  # fmt: skip
RAW = (b"", b"GET", b"\0" * 100, b"GET /v1/sync HTTP/9.9\r\n\r\n",
       b"POST /v1/send HTTP/1.1\r\nContent-Length: 5\r\n\r\nab",
       b"POST /v1/send HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
       b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000 + b"\r\n", b"POST /v1/sync HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
       b"chunked\r\n\r\nzzz\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300)  # fmt: skip


@dataclass
class Came:
    """What came of the requests. bugs: those that were answered with a 500, or not at all."""

    statuses: Counter[int] = field(default_factory=Counter)
    bugs: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    resident_mib: list[float] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """How many were asked."""
        return self.statuses.total()

    @property
    def grown_mib(self) -> float:
        """Resident memory at the end over that after the first fifth."""
        return self.resident_mib[-1] - self.resident_mib[len(self.resident_mib) // 5] if self.resident_mib else 0.0

    def note(self, what: str, ask: Callable[[], int]) -> None:
        """Ask one, and keep what came of it."""
        began_s = time.monotonic()
        try:
            status = ask()
        except (httpx.TimeoutException, TimeoutError) as error:
            self.bugs.append(f"no answer: {what}: {error!r}")
            status = 0
        self.longest_s = max(self.longest_s, time.monotonic() - began_s)
        self.statuses[status] += 1
        if status >= 500 and status != 503:
            self.bugs.append(f"{status}: {what}")


class OpenCloud:
    """A cloud in a process of its own, that looks at every request. sabotage: Python that it runs first."""

    def __init__(self, folder: Path, *, sabotage: str = "") -> None:
        self.folder = folder
        program = str(Path(__file__).with_name("open_cloud.py"))
        self._process = Process(program, str(folder), sabotage, log=folder / "cloud.log")
        self.url = self._process.start()["url"]
        self.token = read_operator(folder / "cloud" / "operator.json").token
        assert self._process.handle is not None
        self._usage = psutil.Process(self._process.handle.pid)

    def resident_mib(self) -> float:
        """What the process holds."""
        return float(self._usage.memory_info().rss) / 2**20

    def log(self) -> str:
        """What it said."""
        return (self.folder / "cloud.log").read_text()

    def close(self) -> None:
        """End it."""
        self._process.stop()


def fuzz_api(cloud: OpenCloud, *, cases: int, seed: int) -> Came:
    """The REST API's routes, each as often, with what fits its description and with what does not."""
    import schemathesis
    from schemathesis import GenerationMode

    came = Came()
    schema = schemathesis.openapi.from_url(f"{cloud.url}/api/schema/openapi.json")
    operations = [one.ok() for one in schema.get_all_operations()]
    each = max(2, round(cases / (1.3 * len(operations))))
    headers = {"authorization": f"Bearer {cloud.token}"}
    with httpx.Client(base_url=cloud.url, timeout=TIMEOUT_S) as client:
        for operation in operations:
            # A path's part may be any text: what would not fit is drawn in vain, hundreds of times.
            bends = bool(operation.body) or any(one.location.value == "query" for one in operation.iter_parameters())
            for mode in GenerationMode if bends else (GenerationMode.POSITIVE,):
                _draw(
                    operation,
                    mode,
                    each,
                    seed,
                    lambda case: came.note(_named(case), lambda: _call(client, case, headers)),
                )
            came.resident_mib.append(cloud.resident_mib())
    return came


def _draw(operation: Any, mode: Any, each: int, seed: int, ask: Callable[[Any], None]) -> None:
    settings = hypothesis.settings(
        max_examples=each,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    hypothesis.seed(seed)(settings(hypothesis.given(operation.as_strategy(generation_mode=mode))(ask)))()


def _named(case: Any) -> str:
    return f"{case.method} {case.formatted_path} query={case.query!r} body={str(case.body)[:300]!r}"


def _call(client: httpx.Client, case: Any, headers: dict[str, str]) -> int:
    told = case.as_transport_kwargs(base_url=str(client.base_url), headers=headers)
    request = client.build_request(
        told["method"], told["url"], params=told.get("params"), headers=dict(told["headers"]), json=told.get("json"),
        content=told.get("data") if isinstance(told.get("data"), bytes | str) else None,
    )  # fmt: skip
    return client.send(request).status_code


READS = ("status", "devices", "rollouts", "bundles", "samples", "events/counts", "join-tokens", "jobs",
         f"devices/{DEVICE}/readings", "analysis/drift?bundle=tiny@1.0.0")  # fmt: skip
"""What people look at: whatever devices say, it must still be told."""


def read_all(cloud: OpenCloud) -> list[str]:
    """The reads of the API that are not answered well."""
    headers = {"authorization": f"Bearer {cloud.token}"}
    with httpx.Client(base_url=cloud.url, timeout=TIMEOUT_S, headers=headers) as client:
        answers = {path: client.get(f"/api/v1/{path}") for path in READS}
    wrong = [f"{one.status_code}: GET {path}: {one.text[:200]}" for path, one in answers.items() if not one.is_success]
    told = from_json(answers["devices"].content, list[DeviceView], what="the fleet") if not wrong else []
    readings = answers[f"devices/{DEVICE}/readings"].content
    if not wrong:
        from_json(readings, list[ReadingView], what="the readings")
    return wrong + [f"unreadable: {one.device_id}: {one.unreadable}" for one in told if one.unreadable]


def fuzz_hub(cloud: OpenCloud, *, cases: int, seed: int) -> Came:
    """The hub's routes: proven and unproven senders, messages changed a little or a lot, bombs, broken HTTP."""
    came = Came()
    draw = random.Random(seed)
    identity = _enrolled(cloud)
    with httpx.Client(base_url=cloud.url, timeout=TIMEOUT_S) as client:
        for number in range(cases):
            if draw.random() < 0.05:
                sent = draw.choice(RAW)
                came.note(f"raw {sent[:60]!r}", lambda sent=sent: _send_raw(cloud.url, sent))
            else:
                request = _request(draw, client, identity)
                what = f"{request.method} {request.url} {dict(request.headers)} {request.content[:80]!r}"
                came.note(what[:600], lambda request=request: _sent(client, request))
            if number % max(1, cases // 50) == 0:
                came.resident_mib.append(cloud.resident_mib())
                came.bugs += read_all(cloud)  # now and then: the next report hides what the one before did
    came.bugs += read_all(cloud)
    return came


def _sent(client: httpx.Client, request: httpx.Request) -> int:
    try:
        return client.send(request).status_code
    except (httpx.RemoteProtocolError, httpx.LocalProtocolError, httpx.WriteError, httpx.ReadError):
        return 400  # turned down below HTTP: the connection was closed


def _request(draw: random.Random, client: httpx.Client, identity: Identity) -> httpx.Request:
    if draw.random() < 0.2:
        request = client.build_request("GET", f"/v1/fetch/{draw.choice(PATHS)}", headers=_headers(draw))
    else:
        verb = draw.choice(("sync", "send", "infer", "enrol"))
        content, headers = _body(draw, verb, identity), _headers(draw)
        if draw.random() < 0.2:
            content, headers = draw.choice((zstandard.compress(content), BOMB, content)), {"content-encoding": b"zstd"}
        method = "POST" if draw.random() < 0.95 else draw.choice(("GET", "PUT", "DELETE", "OPTIONS", "BREW"))
        request = client.build_request(method, f"/v1/{verb}", content=content, headers=headers)
    if draw.random() < 0.95:
        identity.sign(request, created_s=int(time.time()) + draw.choice((*[0] * 20, -400, 400)))
        if draw.random() < 0.1:
            name = draw.choice(("signature", "signature-input", "content-digest"))
            request.headers[name] = "".join(
                chr(32 + byte % 95) for byte in _spoilt(draw, request.headers[name].encode("latin-1"))
            )
    return request


def _headers(draw: random.Random) -> dict[str, bytes]:
    if draw.random() < 0.7:
        return {}
    return {draw.choice(HEADERS): draw.choice(VALUES).encode("latin-1")}


def _body(draw: random.Random, verb: str, identity: Identity) -> bytes:
    good = to_msgpack(_message(verb, identity))
    kind = draw.random()
    if kind < 0.15:
        return good
    if kind < 0.45:
        return _spoilt(draw, good)
    if kind < 0.75:
        return to_msgpack(_bent(draw, msgspec.msgpack.decode(good)))
    if kind < 0.85:
        return to_msgpack(_endless(draw, msgspec.msgpack.decode(good)))
    if kind < 0.9:
        return b"\x91" * draw.choice((10, 2000, 100_000)) + b"\xc0"  # arrays in arrays
    if kind < 0.95:
        return draw.choice(
            (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff")
        )
    return draw.randbytes(draw.choice((0, 1, 50, 5000)))


def _message(verb: str, identity: Identity) -> object:
    if verb == "sync":
        watch = WatchStats(latency_p50_ms=1.0)
        update = UpdateReport(generation=0, rollout_id="r", bundle="tiny@1.0.0", state=UpdateState.ACTIVE, watch=watch)
        said = report(DEVICE, update=update)
        return SyncRequest(reports=(msgspec.structs.replace(said, health=Health(trust=TrustHealth(expires_at_s=1.0))),))
    if verb == "send":
        return SendRequest(events=(event(1), event(2, sample())))
    if verb == "infer":
        return InferRequest(name="tiny", data=b"pixels", deadline_ms=1)
    return _enrolment(identity, "s" * 43)


def _spoilt(draw: random.Random, data: bytes) -> bytes:
    """A few bytes changed, dropped or doubled."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(changed)) if changed else 0
        how = draw.random()
        if how < 0.5 and changed:
            changed[at] = draw.randrange(256)
        elif how < 0.75:
            del changed[at : at + draw.randint(1, 8)]
        else:
            changed[at:at] = changed[at : at + draw.randint(1, 8)] or b"\0"
    return bytes(changed)


def _bent(draw: random.Random, value: Any) -> Any:
    """The same document with one thing in it replaced by something nasty."""
    if draw.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return draw.choice(NASTY)
    if isinstance(value, list):
        at = draw.randrange(len(value))
        return [_bent(draw, one) if index == at else one for index, one in enumerate(value)]
    chosen = draw.choice(list(value))
    return {name: _bent(draw, one) if name == chosen else one for name, one in value.items()}


def _endless(draw: random.Random, document: Any) -> Any:
    """The same document with one of its floats not finite: of the right type, and the harder to notice for that."""
    places: list[tuple[Any, Any]] = []
    within = [document]
    while within:
        inner = within.pop()
        for key, value in inner.items() if isinstance(inner, dict) else enumerate(inner):
            if isinstance(value, float):
                places.append((inner, key))
            elif isinstance(value, dict | list):
                within.append(value)
    if places:
        inner, key = draw.choice(places)
        inner[key] = draw.choice(NOT_FINITE)
    return document


def _send_raw(url: str, sent: bytes) -> int:
    parsed = httpx.URL(url)
    with socket.create_connection((parsed.host, parsed.port or 80), timeout=TIMEOUT_S) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionError:
            return 400
    words = answer.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 400


def _enrolment(identity: Identity, secret: str) -> EnrolRequest:
    statement = enrol_statement(identity.device_id, secret, identity.public_key)
    return EnrolRequest(
        device_id=identity.device_id,
        kind=Kind.DEVICE,
        join_secret=secret,
        public_key=identity.public_key,
        profile=PROFILE,
        possession=identity.sign_statement(statement),
    )


def _enrolled(cloud: OpenCloud) -> Identity:
    identity = Identity(DEVICE, Ed25519PrivateKey.generate())
    headers = {"authorization": f"Bearer {cloud.token}"}
    token = httpx.post(f"{cloud.url}/api/v1/join-tokens", json={}, headers=headers).json()["token"]
    content = to_msgpack(_enrolment(identity, token.split(".")[1]))
    with httpx.Client(base_url=cloud.url, timeout=TIMEOUT_S) as client:
        request = client.build_request("POST", "/v1/enrol", content=content)
        identity.sign(request, created_s=int(time.time()) + 1)
        client.send(request).raise_for_status()
    return identity


def main() -> int:
    """The exit code: 1 when there was a bug."""
    parser = argparse.ArgumentParser(description="Malformed requests at a real cloud.")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cloud = OpenCloud(Path(folder))
        try:
            came = {
                "hub": fuzz_hub(cloud, cases=asked.cases // 2, seed=asked.seed),
                "api": fuzz_api(cloud, cases=asked.cases // 2, seed=asked.seed),
            }
        finally:
            cloud.close()
    for what, one in came.items():
        print(json.dumps({  # noqa: T201 - a program's report
            "what": what, "cases": one.cases, "statuses": dict(sorted(one.statuses.items())), "bugs": one.bugs[:20],
            "bugs_count": len(one.bugs), "longest_s": round(one.longest_s, 3), "grown_mib": round(one.grown_mib, 1),
        }))  # fmt: skip
    return 1 if any(one.bugs for one in came.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
