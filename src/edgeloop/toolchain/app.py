"""The worker, wired: a cloud's operator file, signals, jobs."""

import signal
import threading
from collections.abc import Callable

from edgeloop.toolchain.jobs import do_job
from edgeloop.toolchain.worker import Worker
from edgeloop.transport.cloud_api import CloudApi, Operator


def run_worker(operator: Operator, *, name: str, on_ready: Callable[[], None]) -> None:
    """Work until SIGTERM or SIGINT."""
    stop = threading.Event()
    for kind in (signal.SIGTERM, signal.SIGINT):
        signal.signal(kind, lambda *_: stop.set())
    with CloudApi(operator) as api:
        on_ready()
        Worker(api, lambda job, client, progress: do_job(job, client, progress=progress), name=name).run(stop)
