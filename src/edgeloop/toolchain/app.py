"""The worker, wired: a cloud's operator file, signals, jobs."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path

from edgeloop.contracts.api import JobView
from edgeloop.toolchain.jobs import Made, do_job
from edgeloop.toolchain.progress import Progress
from edgeloop.toolchain.worker import Worker
from edgeloop.transport.cloud_api import CloudApi, Operator


def run_worker(operator: Operator, *, name: str, on_ready: Callable[[], None], data: Path | None = None) -> None:
    """Work until SIGTERM or SIGINT. data: the folder whose files jobs may name, None for none."""
    stop = threading.Event()
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, lambda *_: stop.set())
    with CloudApi(operator) as api:
        on_ready()

        def do(job: JobView, client: CloudApi, progress: Progress) -> Made:
            return do_job(job, client, progress=progress, data=data)

        Worker(api, do, name=name).run(stop)
