"""Serve bundles over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.cloud import Host, Port, TlsCert, TlsKey
from edgeloop.cli.say import ready
from edgeloop.cli.show import AsJson
from edgeloop.contracts.errors import InvalidInput

_MIB = 1024 * 1024

Bundles = Annotated[list[Path] | None, typer.Argument(metavar="BUNDLE...", help="Bundles, each of another name.")]
WatchFolder = Annotated[
    Path | None,
    typer.Option("--watch", help="A folder: newer versions that appear in it are swapped in; others may be loaded."),
]
Engine = Annotated[str | None, typer.Option(help="Insist on litert, onnxruntime or openvino.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads of one inference; unless told: 1 for many askers, the best for one."),
]
Workers = Annotated[int | None, typer.Option(min=1, max=1024, help="Inferences at a time; one a core unless told.")]
Queue = Annotated[int, typer.Option(min=1, help="Inputs that may wait; more are answered 429 with Retry-After.")]
MaxBatch = Annotated[
    int, typer.Option(min=1, help="At most so many inputs a run, where more than one is measured to pay; 1 for never.")
]
MaxRun = Annotated[float, typer.Option("--max-run-ms", min=0.1, help="At most so long a run of several.")]
MaxWait = Annotated[float, typer.Option("--max-wait-ms", min=0.0, help="How long a batch waits for more inputs.")]
DeadlineMs = Annotated[int, typer.Option("--deadline-ms", min=1, help="Of requests that name none, and the most.")]
MaxBody = Annotated[int, typer.Option("--max-body-mb", min=1, help="The largest body that is taken, in MiB.")]
MaxHeld = Annotated[
    int, typer.Option("--max-held-mb", min=1, help="What bodies may hold together, in MiB; beyond it: 429.")
]
MaxBodyS = Annotated[
    float, typer.Option("--max-body-s", min=0.1, help="The time that a body has to be here; then 408.")
]
NoRace = Annotated[bool, typer.Option("--no-race", help="Do not time the engines against one another at the start.")]


def serve(
    bundles: Bundles = None,
    watch: WatchFolder = None,
    host: Host = "127.0.0.1",
    port: Port = 8402,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    engine: Engine = None,
    threads: Threads = None,
    workers: Workers = None,
    queue: Queue = 256,
    max_batch: MaxBatch = 16,
    max_run_ms: MaxRun = 50.0,
    max_wait_ms: MaxWait = 0.0,
    deadline_ms: DeadlineMs = 10_000,
    max_body_mb: MaxBody = 32,
    max_held_mb: MaxHeld = 256,
    max_body_s: MaxBodyS = 120.0,
    no_race: NoRace = False,
    as_json: AsJson = False,
) -> None:
    """Answer over HTTP for bundles until Ctrl-C: images, sounds, tables, tensors; Open Inference Protocol v2."""
    from edgeloop.hub.serve import Listen
    from edgeloop.runtime.outcome import RACE_S
    from edgeloop.runtime.pool import PoolSettings
    from edgeloop.serve.app import run_server
    from edgeloop.serve.askers import BodyLimits
    from edgeloop.serve.config import ServeConfig

    if not bundles and watch is None:
        raise InvalidInput("nothing to serve: name a bundle, or a folder with --watch")
    config = ServeConfig(
        bundles=tuple(bundles or ()),
        watch=watch,
        listen=Listen(host, port, tls_cert, tls_key),
        pool=PoolSettings(
            workers=workers,
            max_queue=queue,
            max_batch=max_batch,
            max_run_ms=max_run_ms,
            max_wait_ms=max_wait_ms,
        ),
        engine=engine,
        threads=threads,
        race_s=0.0 if no_race else RACE_S,
        deadline_s=deadline_ms / 1000,
        bodies=BodyLimits(max_body_mb * _MIB, max_held_mb * _MIB, max_body_s),
    )
    run_server(config, on_ready=lambda url: ready("serve", as_json=as_json, url=url))
