"""A server's processes on loopback: started, waited for, and ended to the last one."""

import contextlib
import http.client
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

READY_TIMEOUT_S = 60.0
END_TIMEOUT_S = 10.0

_POLL_S = 0.1
_GRACE_S = 0.5
_LAST_WORDS = 1000


class Processes:
    """One server and whatever it starts. A context: it is gone on leaving."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], folder: Path, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            # Its own session: Ctrl-C reaches the benchmark alone, which then ends it in order.
            self._leader = subprocess.Popen(  # noqa: S603 - the servers of this folder
                command,
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._family: set[psutil.Process] = set()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the one that was started."""
        return self._leader.pid

    def wait_ready(self, port: int, path: str) -> None:
        """Until GET on this path of loopback answers 200. Raises RuntimeError with the log's end if it does not."""
        until_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < until_s:
            if self._leader.poll() is not None:
                raise RuntimeError(f"the server ended with {self._leader.returncode}: {self._last_words()}")
            if _answers(port, path):
                self._family |= _descendants(self.pid)
                return
            time.sleep(_POLL_S)
        raise RuntimeError(f"the server was not ready within {READY_TIMEOUT_S:.0f} s: {self._last_words()}")

    def stop(self) -> None:
        """SIGTERM to the one that was started; SIGKILL to it and each of its descendants that is there after that.

        They are listed first: BentoML's workers are in sessions of their own and outlive a killed leader.
        """
        self._family |= _descendants(self.pid)
        self._leader.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._leader.wait(END_TIMEOUT_S)
        self._leader.kill()
        self._leader.wait()
        _, left = psutil.wait_procs(self._family, timeout=_GRACE_S)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=END_TIMEOUT_S)

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace")[-_LAST_WORDS:].strip() or "its log is empty"


def _descendants(pid: int) -> set[psutil.Process]:
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
