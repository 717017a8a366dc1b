"""One process in which a version answers, as the agent holds it: started, asked, ended, and how it died.

Rules kept here: nothing waits for it without an end; whatever it does not survive is told as a Died and nothing else,
but for loading that takes too long, which a slow machine explains as well as a model: that is Unavailable; what it
failed of is raised here as the error that it was there; when this is done with it, it is gone, and waited for. Not
thread-safe. Neighbours: `answer` is that process, `exchange` what is said, `isolated` starts it anew.
"""

import os
import select
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import msgspec
import structlog

from edgeloop.contracts.codec import ready
from edgeloop.contracts.errors import Corrupt, EdgeloopError, Unavailable, by_code
from edgeloop.contracts.prediction import Prediction
from edgeloop.device.exchange import PREFIX, Loaded, Order, Said, asked_of, lengths_of, packed, write_some
from edgeloop.runtime.child import FROM_OUTSIDE, OWN_GROUP, command_of, end_of, kill_group, signal_name

if os.name == "posix":
    import fcntl

if TYPE_CHECKING:
    from edgeloop.runtime.sources.port import Frame

_log = structlog.get_logger(__name__)
_PIPE_BYTES = 1024 * 1024
"""The most that Linux gives to anyone: a frame of 640x480 pixels goes in one piece."""
_CHUNK_BYTES = 64 * 1024
_END_S = 5.0


class Died(Unavailable):
    """The process in which a version answers has ended, or was ended because it did not answer.

    is_crash: by a fatal error or by its silence; else it was killed from outside, as the system does when memory runs
    out, or could not do its work for reasons that are not the model's. is_slow: it did not load in time, which may be
    either. lived_s: since it was started.
    """

    def __init__(self, told: str, *, is_crash: bool, lived_s: float, is_slow: bool = False) -> None:
        super().__init__(told)
        self.is_crash = is_crash
        self.is_slow = is_slow
        self.lived_s = lived_s


class Slow(Unavailable):
    """It did not load in time: this machine may be busy, or something that it needs hangs."""


class Late(Unavailable):
    """It has not answered yet; it still may."""


class Worker:
    """A process that has loaded a version. loaded: what it said of that."""

    def __init__(self, process: "subprocess.Popen[bytes]", order: Order) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._asked, self._said = process.stdin.fileno(), process.stdout.fileno()
        self._began_s = time.monotonic()
        self._answer_s = order.answer_s
        self._due_s = 0.0
        self._received = bytearray()
        self.is_busy = False
        self.loaded: Loaded | None = None

    @classmethod
    def start(cls, order: Order, manifest: bytes) -> Self:
        """Start one and wait until it has loaded. manifest: of the variant's bundle, as bytes.

        Raises Died, Unavailable if it took longer than order.load_s, or what loading raises: see
        `runtime.load.load_fastest`.
        """
        parent = _Parent()
        parent.start()
        try:
            process = parent.process()
        except OSError as error:
            raise Died(f"could not be started: {error}", is_crash=False, lived_s=0.0) from error
        made = cls(process, order)
        try:
            made._load(msgspec.structs.replace(order, parent=os.getpid()), manifest)
        except BaseException:
            made.end()
            raise
        return made

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def answer(self, frame: "Frame", *, within_s: float | None = None, forgets: bool = False) -> Prediction:
        """Its answer to a frame. forgets: its answers to earlier frames are not to stand for this one.

        Raises Died, Late if there is none within_s, or what Predictor.predict raises. Where it was late with the frame
        before, that one is waited for and what it says dropped.
        """
        if self.is_busy:
            self._be_done()
        now_s = time.monotonic()
        self._due_s = now_s + self._answer_s
        header, body = asked_of(frame, forgets=forgets)
        self._tell(packed(header, body))
        self.is_busy = True
        return self._predicted(self._due_s if within_s is None else min(self._due_s, now_s + within_s))

    def catch_up(self, *, within_s: float = 0.0) -> Prediction:
        """Its answer to the frame that it was late with. Raises as `answer` does."""
        assert self.is_busy
        return self._predicted(min(self._due_s, time.monotonic() + within_s))

    def end(self) -> None:
        """It is gone when this returns. May be called twice."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._kill()

    def _load(self, order: Order, manifest: bytes) -> None:
        self._prepare()
        self._due_s = self._began_s + order.load_s
        self._tell(packed(order, manifest))
        self.is_busy = True
        self.loaded = self._hear(self._due_s).loaded
        if self.loaded is None:
            raise Corrupt("the process that answers said something else than that it has loaded")

    def _prepare(self) -> None:
        os.set_blocking(self._asked, False)
        os.set_blocking(self._said, False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with suppress(OSError):  # a user may have no more room for pipes; then it goes in more pieces
                fcntl.fcntl(self._asked, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def _predicted(self, until_s: float) -> Prediction:
        said = self._hear(until_s).prediction
        if said is None:
            raise Corrupt("the process that answers said something else than a prediction")
        return said

    def _be_done(self) -> None:
        """With the frame that it was late with, whatever it says of that."""
        try:
            self._hear(self._due_s)
        except Died:
            raise
        except EdgeloopError as error:
            _log.info("late_answer_failed", code=error.code, detail=str(error))

    def _tell(self, parts: list[memoryview]) -> None:
        """Write a message, as fast as it is read."""
        try:
            while parts:
                if not _is_ready(self._asked, select.POLLOUT, self._due_s):
                    raise self._silent()
                write_some(self._asked, parts)
        except BrokenPipeError:
            raise self._gone() from None

    def _hear(self, until_s: float) -> Said:
        """The next message, once it is whole."""
        while (said := self._whole()) is None:
            if not _is_ready(self._said, select.POLLIN, until_s):
                if until_s < self._due_s:
                    raise Late(f"it has not answered after {self._answer_s - (self._due_s - until_s):.1f} s")
                raise self._silent()
            chunk = os.read(self._said, _CHUNK_BYTES)
            if not chunk:
                raise self._gone()
            self._received += chunk
        self.is_busy = False
        if said.code:
            raise by_code(said.code)(said.detail)
        return said

    def _whole(self) -> Said | None:
        """What was received, if that is a message."""
        if len(self._received) < PREFIX.size:
            return None
        header_bytes, body_bytes = lengths_of(self._received[: PREFIX.size])
        size_bytes = PREFIX.size + header_bytes + body_bytes
        if len(self._received) < size_bytes:
            return None
        received, self._received = self._received, bytearray()
        return msgspec.msgpack.decode(memoryview(received)[PREFIX.size : PREFIX.size + header_bytes], type=ready(Said))

    def _silent(self) -> Unavailable:
        lived_s = time.monotonic() - self._began_s
        self._kill()
        if self.loaded is None:
            within_s = self._due_s - self._began_s
            return Slow(f"did not load within {within_s:g} s and was stopped; this machine may be busy")
        return Died(f"did not answer within {self._answer_s:g} s and was stopped", is_crash=True, lived_s=lived_s)

    def _gone(self) -> Died:
        """How it ended."""
        lived_s = time.monotonic() - self._began_s
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._kill()
            return Died("closed its pipes and did not end", is_crash=True, lived_s=lived_s)
        doing = "answering" if self.loaded is not None else "loading"
        if code < 0 and -code not in FROM_OUTSIDE:
            return Died(f"crashed while {doing}: {signal_name(-code)}", is_crash=True, lived_s=lived_s)
        hint = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return Died(f"{end_of(code)} while {doing}{hint}", is_crash=False, lived_s=lived_s)

    def _kill(self) -> None:
        if self._process.returncode is None:
            kill_group(self._process.pid)
        self._process.wait()


class _Parent(threading.Thread):
    """Starts a process, and lasts as long as it does: Linux ends it with the thread that started it, see `end_with`."""

    def __init__(self) -> None:
        super().__init__(name="worker", daemon=True)
        self._is_started = threading.Event()
        self._made: subprocess.Popen[bytes] | OSError | None = None

    def run(self) -> None:
        """Start it; wait until it has ended, and leave it to its owner to hear how."""
        command, pipe = command_of("edgeloop.device.answer"), subprocess.PIPE
        try:
            process = self._made = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, **OWN_GROUP)  # noqa: S603 - ourselves
        except OSError as error:
            self._made = error
            return
        finally:
            self._is_started.set()
        with suppress(ChildProcessError):  # its owner was sooner
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    def process(self) -> "subprocess.Popen[bytes]":
        """It, once it is started. Raises OSError if it could not be."""
        self._is_started.wait()
        if not isinstance(self._made, subprocess.Popen):
            assert self._made is not None, "starting it raised something else"
            raise self._made
        return self._made


def _is_ready(pipe: int, event: int, until_s: float) -> bool:
    """Whether it can be written or read, or was closed at its other end, before then."""
    poll = select.poll()
    poll.register(pipe, event)
    return bool(poll.poll(max(0.0, until_s - time.monotonic()) * 1000))
