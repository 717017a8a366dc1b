"""How each peer of `edgeloop serve` is started and asked, and how a right answer is known.

Each serves the same LiteRT file through LiteRT's interpreter on one thread, and is asked with the input tensor's bytes
as the file stores them. A tool that has several ways in stands here once a way: as its guides have it, and, where it
lets one add a route of one's own, through the raw route, which leaves out most of the tool and is its fastest. Workers
are for two cores; where it was measured that fewer are faster, the number says so.
"""

import base64
import json
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import serve_load
from benchmarks.peers import venv
from benchmarks.servers.process import Processes

CORES = 2

_APART = Path(__file__).resolve().with_name("apart")
_MODEL = "EDGELOOP_BENCH_MODEL"
_WORKERS = "EDGELOOP_BENCH_WORKERS"
_THREADS = "EDGELOOP_BENCH_THREADS"

Headers = tuple[tuple[str, str], ...]
"""Of a request, by name."""

_RAW: Headers = (("content-type", "application/octet-stream"),)
_JSON: Headers = (("content-type", "application/json"),)


@dataclass(frozen=True)
class Served:
    """A model that is served, and the question that is asked. file: LiteRT. pixels: (H, W) or (H, W, 3) uint8 of the
    model's size. tensor: the same as the file stores its input, with its batch axis. label: the right answer's index.
    """

    name: str
    file: Path
    pixels: NDArray[np.uint8]
    tensor: NDArray[np.generic]
    label: int


@dataclass(frozen=True)
class Launch:
    """What a peer is started with. folder: its own, empty. ports: free ones, as many as any peer needs."""

    served: Served
    folder: Path
    ports: tuple[int, int]
    workers: int


@dataclass(frozen=True)
class Peer:
    """One way to serve and to ask.

    start: the command and its environment; it may write files into the launch's folder. ready: a path that answers
    200 once questions are taken. body: the headers and the bytes of a question. holds: what a right answer's
    body holds, of the label. workers: processes that infer, by the model's name; else CORES.
    """

    title: str
    start: Callable[[Launch], tuple[list[str], dict[str, str]]]
    ready: str
    target: str
    body: Callable[[Served], tuple[Headers, bytes]]
    holds: Callable[[int], str]
    note: str = ""
    workers: Mapping[str, int] = field(default_factory=dict)


class Server:
    """A peer that answers. A context: it is gone on leaving."""

    def __init__(self, peer: Peer, served: Served, *, port: int, processes: Processes) -> None:
        self._processes = processes
        headers, body = peer.body(served)
        self.peer = peer
        self.url = f"http://127.0.0.1:{port}{peer.target}"
        self.request = serve_load.Request(
            host="127.0.0.1",
            port=port,
            target=peer.target,
            headers=headers,
            body=body,
            holds=peer.holds(served.label).encode(),
        )

    @property
    def pid(self) -> int:
        """Of the process that was started; it may have others below it."""
        return self._processes.pid

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End all of its processes."""
        self._processes.stop()


def start(peer: Peer, served: Served, scratch: Path) -> Server:
    """Start it, wait until it is ready, ask once and hold it to the right answer. scratch: for its folder and log.

    Raises Absent if it is not installed, RuntimeError with its last words if it does not get ready or answers wrong.
    """
    folder = (scratch / f"{peer.title}-{served.name}".lower().replace(" ", "-")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    launch = Launch(served, folder, (free_port(), free_port()), peer.workers.get(served.name, CORES))
    command, environment = peer.start(launch)
    log = folder.with_suffix(".log")
    processes = Processes(command, environment=environment, folder=folder, log=log)
    try:
        processes.wait_ready(launch.ports[0], peer.ready)
        server = Server(peer, served, port=launch.ports[0], processes=processes)
        tally = serve_load.run(server.request, clients=1, seconds=0.2)
        if tally.errors or not tally.latencies_ms:
            raise RuntimeError(f"{peer.title} answers {dict(tally.errors)}, not {server.request.holds!r}; see {log}")
    except BaseException:
        processes.stop()
        raise
    return server


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def raw_body(served: Served) -> tuple[Headers, bytes]:
    """The tensor's bytes and nothing else."""
    return _RAW, served.tensor.tobytes()


def pixel_body(served: Served) -> tuple[Headers, bytes]:
    """The pixels' bytes, with their shape and type in headers."""
    shape = ",".join(str(side) for side in served.pixels.shape)
    return (*_RAW, ("x-shape", shape), ("x-dtype", str(served.pixels.dtype))), served.pixels.tobytes()


def base64_json(served: Served) -> tuple[Headers, bytes]:
    """{"tensor": base64}."""
    return _JSON, json.dumps({"tensor": _as_base64(served)}).encode()


def open_inference(served: Served) -> tuple[Headers, bytes]:
    """The Open Inference Protocol's JSON, the tensor as one BYTES element in base64."""
    tensor = {"name": "tensor", "shape": [1], "datatype": "BYTES", "data": [_as_base64(served)]}
    return _JSON, json.dumps({"inputs": [tensor]}).encode()


def _as_base64(served: Served) -> str:
    return base64.b64encode(served.tensor.tobytes()).decode()


def _start_litserve(queue: str) -> Callable[[Launch], tuple[list[str], dict[str, str]]]:
    def command(launch: Launch) -> tuple[list[str], dict[str, str]]:
        python = str(venv.require("litserve") / "python")
        script = str(_APART / "litserve_server.py")
        return [python, script, str(launch.ports[0]), str(launch.workers), queue], _environment(launch)

    return command


def _start_bentoml(service: str) -> Callable[[Launch], tuple[list[str], dict[str, str]]]:
    def command(launch: Launch) -> tuple[list[str], dict[str, str]]:
        bentoml = str(venv.require("bentoml") / "bentoml")
        listen = ["--host", "127.0.0.1", "--port", str(launch.ports[0])]
        quiet = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(launch.folder / "home")}
        environment = _environment(launch) | quiet | {_WORKERS: str(launch.workers)}
        return [bentoml, "serve", f"bentoml_service:{service}", *listen], environment

    return command


def _start_mlserver(launch: Launch, *, in_threads: bool) -> tuple[list[str], dict[str, str]]:
    """in_threads: workers are threads of the HTTP process, for the raw route, which no other process serves."""
    mlserver = str(venv.require("mlserver") / "mlserver")
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": launch.ports[0],
        "grpc_port": launch.ports[1],
        "metrics_endpoint": None,
        "parallel_workers": 0 if in_threads else launch.workers,
        "environments_dir": str(launch.folder / "environments"),
    }
    model = {"name": "model", "implementation": "mlserver_runtime.Runtime"}
    (launch.folder / "settings.json").write_text(json.dumps(settings))
    (launch.folder / "model-settings.json").write_text(json.dumps(model))
    threads = str(launch.workers if in_threads else 0)
    return [mlserver, "start", str(launch.folder)], _environment(launch) | {_THREADS: threads}


def _environment(launch: Launch) -> dict[str, str]:
    return {_MODEL: str(launch.served.file.absolute()), "PYTHONPATH": str(_APART)}


LITSERVE = Peer(
    title="LitServe",
    start=_start_litserve("plain"),
    ready="/health",
    target="/predict",
    body=raw_body,
    holds=lambda label: f'"label":{label},',
    note="raw body, 2 workers, 2 HTTP processes, no batching",
)

LITSERVE_FAST = replace(
    LITSERVE,
    title="LitServe fast_queue",
    start=_start_litserve("fast"),
    note="the same with its ZeroMQ queue, which it advises for more than 100 requests a second",
)

BENTOML = Peer(
    title="BentoML",
    start=_start_bentoml("Service"),
    ready="/readyz",
    target="/predict",
    body=base64_json,
    holds=lambda label: f'"label": {label},',
    note="base64 in JSON, async API, 2 workers, no batching, no metrics",
)

BENTOML_ROUTE = Peer(
    title="BentoML route",
    start=_start_bentoml("Mounted"),
    ready="/readyz",
    target="/mounted/raw",
    body=raw_body,
    holds=lambda label: f'"label":{label},',
    note="raw body through a mounted ASGI route, 2 workers, no metrics",
)

MLSERVER = Peer(
    title="MLServer",
    start=lambda launch: _start_mlserver(launch, in_threads=False),
    ready="/v2/models/model/ready",
    target="/v2/models/model/infer",
    body=open_inference,
    holds=lambda label: f'"name":"label","shape":[1],"datatype":"INT64","data":[{label}]',
    note="Open Inference Protocol, base64 in JSON, no batching, no metrics; digits without worker processes, 2 else",
    workers={"digits": 0},
)

MLSERVER_ROUTE = Peer(
    title="MLServer route",
    start=lambda launch: _start_mlserver(launch, in_threads=True),
    ready="/v2/models/model/ready",
    target="/raw",
    body=raw_body,
    holds=lambda label: f'"label":{label},',
    note="raw body through a custom handler in the HTTP process; digits in its event loop, else in 2 threads",
    workers={"digits": 0},
)

PEERS = (LITSERVE, LITSERVE_FAST, BENTOML, BENTOML_ROUTE, MLSERVER, MLSERVER_ROUTE)
"""In the order of the table."""


def edgeloop(bundle: Path, label: str, *options: str) -> Peer:
    """Ours, as a peer of its peers: `edgeloop serve BUNDLE` with these options, asked with the pixels' bytes.

    The pixels are as many bytes as the tensor; bringing them into the tensor's form is the server's work here. label:
    the right answer, as the bundle calls it. The bundle is to be loaded once before, so that its race is remembered.
    """

    def command(launch: Launch) -> tuple[list[str], dict[str, str]]:
        serve = [sys.executable, "-m", "edgeloop", "serve", str(bundle.absolute())]
        return [*serve, "--port", str(launch.ports[0]), *options], {}

    return Peer(
        title="edgeloop",
        start=command,
        ready="/v2/health/ready",
        target="/predict",
        body=pixel_body,
        holds=lambda _: f'"label":"{label}"',
        note="raw body",
    )
