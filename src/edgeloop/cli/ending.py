"""How a process of ours ends: an error becomes a line on standard error and an exit code, see `app`.

Whoever reads our standard output may leave before its end (`| head -1`): we end then, without a word, as any program
does that a closed pipe ends. Only there: a broken connection elsewhere is an error like others. Where a full disk takes
no more of what we print, that is an error that says so.

When all is done, the process is not taken apart: Python's own end runs while native libraries' threads still hand over
what they did, and some abort then. obstore did after 3 of 100 backups that had succeeded.
Source: github.com/PyO3/pyo3-async-runtimes/issues/40.
"""

import atexit
import io
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from edgeloop import ownership
from edgeloop.contracts.errors import EdgeloopError, Unavailable

READER_LEFT = 141
"""What a shell shows of a program that a closed pipe ended: 128 + SIGPIPE."""


def run_to_end(work: Callable[[], object]) -> None:
    """Do it; where it fails, the process ends with the failure's exit code. For the whole of a process: once called, it
    ends as soon as its threads and what asked for the end (`atexit`, from here on) have had their turn.
    """
    ending = _Ending()
    atexit.register(ending.leave)
    ownership.take_over()
    try:
        _run(work)
        ending.code = 0
    except SystemExit as ended:
        ending.code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise


class _Ending:
    """The process's exit code, 1 unless told otherwise: then an exception came through, and Python has printed it."""

    def __init__(self) -> None:
        self.code = 1

    def leave(self) -> None:
        """The last thing that this process does."""
        logging.shutdown()  # asked for the end before us
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(self.code & 0xFF)


def _run(work: Callable[[], object]) -> None:
    try:
        work()
    except EdgeloopError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        try:
            sys.stdout.flush()  # here and not behind us, where Python would report that nobody reads it
        except EdgeloopError as error:
            _fail(error)


def heed_closed_pipes() -> None:
    """From now on, writing to standard output that nobody reads ends the process with READER_LEFT, and what goes to
    standard error that nobody reads is dropped: work does not end because nobody reads its log.

    Not by the signal SIGPIPE, which would end a server for each client that leaves, too. To be called before anybody
    keeps `sys.stdout` or `sys.stderr`.
    """
    sys.stdout = _watched(sys.stdout, ends=True)
    sys.stderr = _watched(sys.stderr, ends=False)


def _watched(stream: TextIO, *, ends: bool) -> TextIO:
    is_ours = stream in (sys.__stdout__, sys.__stderr__)  # and not what a program that calls us put in its place
    if not is_ours or not isinstance(stream, io.TextIOWrapper) or stream.isatty():
        return stream
    stream.flush()
    pipe = _Pipe(stream.fileno(), ends=ends)
    is_direct = stream.write_through  # python -u
    return io.TextIOWrapper(
        pipe if is_direct else io.BufferedWriter(pipe),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=is_direct,
    )


class _Pipe(io.FileIO):
    def __init__(self, descriptor: int, *, ends: bool) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._ends = ends

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            self._drop_what_follows()
            if self._ends:
                raise SystemExit(READER_LEFT) from None
            return len(data)
        except OSError as error:
            from edgeloop.bundle.durable import is_disk_full

            if not is_disk_full(error):
                raise
            self._drop_what_follows()
            if self._ends:
                told = f"standard output takes no more: {error.strerror}. Free some space and try again."
                raise Unavailable(told) from error
            return len(data)

    def _drop_what_follows(self) -> None:
        """Else what is buffered would be tried again at the end, and fail again."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def _fail(error: EdgeloopError) -> NoReturn:
    from rich.console import Console  # a process that ends well need not load it

    Console(stderr=True, soft_wrap=True).print(f"[bold red]{error.code}[/]: {_plain(str(error))}", highlight=False)
    sys.exit(error.exit_code)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
