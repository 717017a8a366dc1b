"""Real processes for tests: started, waited for, killed, and never left behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

READY_TIMEOUT_S = 60.0


class Process:
    """A program of ours that says in one line of JSON when it is ready."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self._arguments = arguments
        self._log = log
        self._output = log.with_suffix(".out")
        self.handle: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, str]:
        """Start it and return what it says once it is ready."""
        with self._output.open("wb") as output, self._log.open("ab") as log:
            self.handle = subprocess.Popen(
                [sys.executable, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )
        until_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < until_s:
            line, newline, _ = self._output.read_text().partition("\n")
            if newline:
                return json.loads(line)
            if self.handle.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"{self._arguments} did not get ready: {self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL it and whatever it started, and wait until it is gone."""
        assert self.handle is not None
        os.killpg(self.handle.pid, signal.SIGKILL)
        self.handle.wait()

    def stop(self) -> None:
        """End it if it still runs."""
        if self.handle is not None and self.handle.poll() is None:
            self.kill()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
