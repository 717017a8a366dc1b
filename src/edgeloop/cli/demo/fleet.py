"""The demo's processes: real ones, on loopback, each with its own folder and log."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from edgeloop.contracts.errors import Unavailable

_READY_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 8.0
_SAMPLE_EVERY_S = 0.5


class Fleet:
    """Starts, kills and ends processes, and watches their memory."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        logs.mkdir(parents=True)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._peak_bytes = 0
        self._stopped = threading.Event()
        threading.Thread(target=self._watch_memory, name="memory", daemon=True).start()

    @property
    def peak_memory_mb(self) -> float:
        """The most resident memory that this process and all of the fleet had together."""
        return self._peak_bytes / 1024**2

    def start(self, name: str, *arguments: str) -> dict[str, str]:
        """Start `edgeloop ARGUMENTS --json` and wait until it says that it is ready; returns what it said.

        Raises Unavailable, with the end of its log, if it ends or stays silent.
        """
        self.launch(name, *arguments)
        return self.wait_ready(name)

    def launch(self, name: str, *arguments: str) -> None:
        """Start it without waiting."""
        output = (self._logs / f"{name}.out").open("wb")
        log = (self._logs / f"{name}.log").open("ab")
        command = [sys.executable, "-m", "edgeloop", *arguments, "--json"]
        # Its own session: Ctrl-C reaches the demo alone, which then ends the others in order.
        self._processes[name] = subprocess.Popen(  # noqa: S603 - our own program
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=log, start_new_session=True
        )
        output.close()
        log.close()

    def wait_ready(self, name: str) -> dict[str, str]:
        """What it says once it is ready."""
        until_s = time.monotonic() + _READY_TIMEOUT_S
        output = self._logs / f"{name}.out"
        while time.monotonic() < until_s:
            line = output.read_text().partition("\n")
            if line[1]:
                facts: dict[str, str] = json.loads(line[0])
                return facts
            if self._processes[name].poll() is not None:
                raise Unavailable(f"{name} ended at its start; {self._log_end(name)}")
            time.sleep(0.05)
        raise Unavailable(f"{name} was not ready within {_READY_TIMEOUT_S:.0f} s; {self._log_end(name)}")

    def kill(self, name: str) -> None:
        """SIGKILL: no goodbye, no flush."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def check_alive(self) -> None:
        """Raise Unavailable if any of them ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise Unavailable(f"{name} ended with code {process.returncode}; {self._log_end(name)}")

    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def stop(self) -> None:
        """End them all: SIGTERM, then SIGKILL for what does not listen and for what they started themselves."""
        self._stopped.set()
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        until_s = time.monotonic() + _END_TIMEOUT_S
        for process in self._processes.values():
            try:
                process.wait(max(0.1, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with suppress(ProcessLookupError):
                # Each is the leader of its own group, so this reaches a worker's children and nobody else.
                os.killpg(process.pid, signal.SIGKILL)
        self._processes.clear()

    def _log_end(self, name: str) -> str:
        log = self._logs / f"{name}.log"
        lines = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
        return f"its log ends: {' | '.join(lines) or 'empty'}"

    def _watch_memory(self) -> None:
        while not self._stopped.wait(_SAMPLE_EVERY_S):
            pids = [os.getpid(), *(process.pid for process in list(self._processes.values()))]
            self._peak_bytes = max(self._peak_bytes, sum(_tree_bytes(pid) for pid in pids))


def _tree_bytes(pid: int) -> int:
    try:
        process = psutil.Process(pid)
        own = int(process.memory_info().rss)
        if pid == os.getpid():
            return own
        return own + sum(int(child.memory_info().rss) for child in process.children(recursive=True))
    except psutil.Error:
        return 0
