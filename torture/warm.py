"""Real processes at a fork's price: a process that has everything imported, and forks whatever is asked of it.

A cloud takes 1.2 s to start, most of it imports; hundreds of kills would spend their time there. So one process per
bench imports all tiers and then only forks: what it forks is a process of its own, in a session of its own, with its
own log, and runs what `edgeloop cloud serve`, `node run` and `device run` run. It dies as any other does, by SIGKILL.

    with Warm(folder) as warm:
        cloud = warm.start(Order(role="cloud", folder=..., log=...))
        cloud.ready()["url"]
        cloud.kill()

Neighbour: `roles` is what the children do.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import msgspec

READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_LOOK_EVERY_S = 0.002
_LARGEST_ORDER_BYTES = 64 * 1024


Settings = Mapping[str, str | int | float | bool | None]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is to be. role: a function of `roles`; settings: its arguments; faults: of `sabotage`, by name.

    log: where it logs; what it says on standard output goes beside it, into NAME.out.
    """

    role: str
    log: str
    settings: Settings = {}
    faults: tuple[str, ...] = ()


class _Asked(msgspec.Struct, frozen=True):
    start: Order | None = None
    kill: int = 0
    stop: int = 0
    poll: int = 0


class Running:
    """A child."""

    def __init__(self, warm: "Warm", pid: int, order: Order) -> None:
        self._warm = warm
        self.pid = pid
        self.log = Path(order.log)
        self._output = self.log.with_suffix(".out")
        self._is_gone = False

    def ready(self) -> dict[str, str]:
        """What it says once it is ready, waited for. Raises AssertionError with its log's end if it is not to be."""
        until_s = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < until_s:
            line, newline, _ = self._output.read_text().partition("\n")
            if newline:
                said: dict[str, str] = json.loads(line)
                return said
            if not self.is_alive():
                break
            time.sleep(_LOOK_EVERY_S)
        raise AssertionError(f"{self.log.stem} did not get ready: {self.log.read_text()[-2000:]}")

    def is_alive(self) -> bool:
        """Whether it still runs."""
        if not self._is_gone:
            self._is_gone = self._warm.ask(_Asked(poll=self.pid)) != 0
        return not self._is_gone

    def kill(self) -> None:
        """SIGKILL it and what it started, and wait until it is gone."""
        if not self._is_gone:
            self._warm.ask(_Asked(kill=self.pid))
            self._is_gone = True

    def stop(self) -> None:
        """SIGTERM it, as a service manager does, and wait until it has ended in order. Raises AssertionError."""
        assert not self._is_gone
        assert self._warm.ask(_Asked(stop=self.pid)), f"{self.log.stem} did not end: {self.log.read_text()[-2000:]}"
        self._is_gone = True


class Warm:
    """The process that forks. environment: what it is to have beside ours."""

    def __init__(self, *, environment: Mapping[str, str] | None = None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-m", "torture.warm", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **(environment or {}), "PYTHONPATH": _path()},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._socket = ours

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()  # the end of all its children
        self._process.wait()

    def start(self, order: Order) -> Running:
        """Fork one; returns at once."""
        log = Path(order.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.with_suffix(".out").write_bytes(b"")
        return Running(self, self.ask(_Asked(start=order)), order)

    def ask(self, asked: _Asked) -> int:
        """Its answer: a pid, or whether a child is gone."""
        self._socket.send(msgspec.json.encode(asked))
        said = self._socket.recv(64)
        if not said:
            raise AssertionError("the process that forks is gone; what it printed says why")
        return int(said)


def _path() -> str:
    """So that it finds what this process has found, in the same order."""
    return os.pathsep.join(part for part in sys.path if part)


# ---- in the other process


def _serve(asked: socket.socket) -> None:
    """Until the other end is closed."""
    from torture import roles

    roles.warm_up()
    children: set[int] = set()
    while data := asked.recv(_LARGEST_ORDER_BYTES):
        one = msgspec.json.decode(data, type=_Asked)
        if one.start is not None:
            said = _fork(one.start, asked)
            children.add(said)
        elif one.kill:
            said = _end(one.kill)
            children.discard(one.kill)
        elif one.stop:
            said = _stop(one.stop)
            if said:
                children.discard(one.stop)
        else:
            said = _poll(one.poll)
            if said:
                children.discard(one.poll)
        asked.send(str(said).encode())
    for pid in children:
        _end(pid)


def _fork(order: Order, asked: socket.socket) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        asked.close()
        _redirect(Path(order.log))
        from torture import roles

        roles.become(order)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - a fork must never run on as its parent
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: Path) -> None:
    for path, number, how in ((log, 2, os.O_APPEND), (log.with_suffix(".out"), 1, 0)):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o644)
        os.dup2(handle, number)
        os.close(handle)


def _end(pid: int) -> int:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # it may not have made its session yet
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it started itself
    return 1


def _stop(pid: int) -> int:
    """Whether it ended in time: 1 or 0."""
    os.kill(pid, signal.SIGTERM)
    until_s = time.monotonic() + _STOP_TIMEOUT_S
    while time.monotonic() < until_s:
        if _poll(pid):
            return 1
        time.sleep(_LOOK_EVERY_S)
    return 0


def _poll(pid: int) -> int:
    """Whether it is gone: 1 or 0."""
    try:
        return int(os.waitpid(pid, os.WNOHANG)[0] != 0)
    except ChildProcessError:
        return 1


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as _asked:
        _serve(_asked)
