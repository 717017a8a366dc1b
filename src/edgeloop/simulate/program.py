"""A program of ours in a process of its own, that is talked to in lines of JSON and never left behind."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import psutil

from edgeloop.contracts.errors import Unavailable
from edgeloop.hub.serve import loop_factory

_END_S = 8.0


class Program:
    """A running `python -m MODULE ARGUMENTS`; its standard error goes to `log`."""

    def __init__(self, *arguments: str, log: Path) -> None:
        self._log = log
        self._lines: Queue[bytes] = Queue()
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            # Its own session: Ctrl-C reaches the one who started it alone, who then ends the others in order.
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, name="lines", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, line: bytes) -> None:
        """Write a line to it. Raises Unavailable if it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise Unavailable(f"a process of the simulation ended by itself; {self.log_end()}") from error

    def heard(self) -> list[bytes]:
        """The lines that came since it was last asked. Raises Unavailable if it has ended by itself."""
        lines = []
        with suppress(Empty):
            while True:
                lines.append(self._lines.get_nowait())
        if not lines and self._process.poll() is not None:
            raise Unavailable(f"a process of the simulation ended by itself; {self.log_end()}")
        return lines

    def wait_line(self, timeout_s: float) -> bytes:
        """Its next line. Raises Unavailable if none comes in time."""
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            try:
                return self._lines.get(timeout=0.1)
            except Empty:
                if self._process.poll() is not None and self._lines.empty():
                    break
        raise Unavailable(f"a process of the simulation said nothing within {timeout_s:.0f} s; {self.log_end()}")

    def kill(self) -> None:
        """SIGKILL: no goodbye, no flush."""
        self._process.kill()
        self._process.wait()
        self._close()

    def ask_to_end(self) -> None:
        """Close its input and send SIGTERM; `end` waits."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            with suppress(OSError):
                self._process.stdin.close()
            self._process.terminate()

    def end(self) -> None:
        """Wait until it is gone; what does not listen is killed, with all that it started."""
        self.ask_to_end()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the leader of its own group: nobody else's
        self._close()

    def log_end(self) -> str:
        """The end of its log, for a message."""
        lines = self._log.read_text(errors="replace").splitlines()[-3:] if self._log.exists() else []
        return f"its log {self._log} ends: {' | '.join(lines) or 'empty'}"

    def _close(self) -> None:
        """Let go of its pipes, once what it said is read."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)


class Watched:
    """What a process has cost, from the system's books."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)

    def cpu_s(self) -> float:
        """Processor seconds, its own and the system's for it."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def memory_bytes(self) -> int:
        """Resident memory."""
        return int(self._process.memory_info().rss)

    def peak_memory_bytes(self) -> int:
        """Resident memory at most since the process began, where the system keeps that; else as it is now."""
        status = Path(f"/proc/{self._process.pid}/status")  # Linux: proc(5), VmHWM
        for line in status.read_text().splitlines() if status.is_file() else ():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        return self.memory_bytes()


def listener_pid(port: int) -> int | None:
    """The process of this machine that listens on a port, if it may be looked at."""
    with suppress(psutil.Error):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port:
                return int(one.pid) if one.pid else None
    return None


def run_quietly(main: Coroutine[Any, Any, None]) -> None:
    """Run one of our programs: uvloop where it is installed, and only errors on standard error."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with asyncio.Runner(loop_factory=loop_factory()) as runner, suppress(KeyboardInterrupt):
        loop = runner.get_loop()
        task = loop.create_task(main)
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)


def read_ready(program: Program, *, timeout_s: float = 60.0) -> dict[str, str]:
    """What an `edgeloop ... --json` service says once it is ready."""
    facts: dict[str, str] = json.loads(program.wait_line(timeout_s))
    return facts
