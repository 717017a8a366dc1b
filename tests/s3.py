"""A real S3 server for tests: moto's, as a process of its own on loopback.

server = S3Server(); server.start()      half a second
url = server.new_bucket()                with server.environment() in the environment
"""

import os
import signal
import socket
import subprocess
import sys
import time
from itertools import count

import httpx

from processes import free_port

_READY_TIMEOUT_S = 60.0


class S3Server:
    """One server. `stop` it."""

    def __init__(self) -> None:
        self.port = free_port()
        self._numbers = count(1)
        self._handle: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """What a client needs to know."""
        return {
            "AWS_ENDPOINT": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "tests",
        }

    def start(self) -> None:
        """Answer."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        nowhere = subprocess.DEVNULL
        self._handle = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
        until_s = time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < until_s and self._handle.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError("moto's server did not start")

    def new_bucket(self) -> str:
        """The URL of an empty place in a new bucket."""
        name = f"fleet-{next(self._numbers)}"
        httpx.put(f"{self.endpoint}/{name}").raise_for_status()
        return f"s3://{name}/blobs"

    def keys(self, url: str) -> str:
        """The bucket's own listing, as XML."""
        return httpx.get(f"{self.endpoint}/{url.split('/')[2]}?list-type=2").text

    def stop(self) -> None:
        """End it."""
        if self._handle is not None:
            os.killpg(self._handle.pid, signal.SIGKILL)
            self._handle.wait()
