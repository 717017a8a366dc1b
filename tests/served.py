"""A server of bundles as a real process, and how to ask it."""

import http.client
import signal
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builders import quadrant_images
from processes import Process

IMAGES = quadrant_images(4, seed=5)
RAW = {"content-type": "application/octet-stream"}
TIMEOUT_S = 30.0

Start = Callable[..., "Served"]


class Served:
    """A server process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.scheme, _, self.host = process.start()["url"].partition("://")
        name, _, port = self.host.partition(":")
        self.address = (name, int(port))
        self.trust: ssl.SSLContext | None = None

    def connect(self) -> http.client.HTTPConnection:
        if self.scheme == "https":
            return http.client.HTTPSConnection(self.host, timeout=TIMEOUT_S, context=self.trust)
        return http.client.HTTPConnection(self.host, timeout=TIMEOUT_S)

    def ask(
        self, body: bytes = IMAGES[0].tobytes(), path: str = "/predict", method: str = "POST", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        connection = self.connect()
        try:
            return asked(connection, body, path, method=method, **headers)
        finally:
            connection.close()

    def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric's samples, or of those with this label."""
        text = self.ask(b"", "/metrics", "GET")[2].decode()
        told = [line for line in text.splitlines() if line.startswith(name + "{") and label in line]
        return sum(float(line.rpartition(" ")[2]) for line in told)

    def send(self, number: signal.Signals) -> None:
        assert self.process.handle is not None
        self.process.handle.send_signal(number)


def asked(
    connection: http.client.HTTPConnection, body: bytes, path: str = "/predict", *, method: str = "POST", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in (RAW | headers).items()})
    reply = connection.getresponse()
    return reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()


@contextmanager
def starting(folder: Path) -> Iterator[Start]:
    """Starts servers, which end with the context. folder: for their logs and what they remember."""
    running: list[Process] = []

    def started(*arguments: str | Path) -> Served:
        told = ("-m", "edgeloop", "serve", "--json", "--port", "0", "--no-race", *map(str, arguments))
        running.append(Process(*told, log=folder / f"{len(running)}.log"))
        return Served(running[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        try:
            yield started
        finally:
            for process in running:
                process.stop()
