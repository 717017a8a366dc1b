"""Answer with one version, frame after frame, in a process that may die of it.

Run as `python -P -m edgeloop.device.answer`; what it is told and says is in `exchange`. It holds the predictor, its
cache and its smoothing: a frame that has not changed costs the way here and no computing.

Rules kept here: it ends with the agent, however that ends and whatever native code is in the middle of, and says
nothing then; where memory runs out it goes before the agent; an input that cannot be used ends nothing. Neighbours:
`worker` starts and asks it, `runtime.answering` answers.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from edgeloop.bundle.archive import Bundle, parse_manifest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import EdgeloopError, Unavailable
from edgeloop.device.exchange import Asked, Loaded, Order, Said, packed, read_header, write_some
from edgeloop.runtime.child import Bounded, die_first, end_with, take_stdout

if TYPE_CHECKING:
    from edgeloop.runtime.answering import Answering
    from edgeloop.runtime.input.port import Source

_GRACE_S = 5.0
"""After its time the agent ends this process, with a word on why; it ends by itself only if there is no agent."""


class _Frames:
    """Reads frames; the memory of an array serves the next one, too."""

    def __init__(self, stream: BufferedReader) -> None:
        self._stream = stream
        self._memory = bytearray()

    def read(self) -> "tuple[Asked, Source] | None":
        """The next one; None at the end."""
        found = read_header(self._stream, Asked)
        if found is None:
            return None
        asked, size_bytes = found
        if not asked.dtype:
            data = self._stream.read(size_bytes)
            return None if len(data) < size_bytes else (asked, data)
        import numpy as np

        if len(self._memory) < size_bytes:
            self._memory = bytearray(size_bytes)
        view = memoryview(self._memory)[:size_bytes]
        if self._stream.readinto(view) < size_bytes:
            return None
        return asked, np.frombuffer(view, asked.dtype).reshape(asked.shape)


def _load(order: Order, manifest: bytes) -> "tuple[Answering, Loaded]":
    """In the setting that won the race when it was accepted; nothing is raced here."""
    from edgeloop.runtime.answering import Answering
    from edgeloop.runtime.load import load_fastest

    bundle = Bundle(parse_manifest(manifest), Shelf(Path(order.shelf)), manifest_bytes=manifest)
    variant = bundle.variant(order.variant)
    predictor = load_fastest(bundle, [variant], threads=order.threads, race_s=0.0, folder=Path(order.races))
    told = Loaded(setting=str(predictor.setting), is_raced=predictor.race is not None)
    return Answering(predictor, cache=order.cache), told


def _answer(answering: "Answering", asked: Asked, data: "Source") -> Said:
    from edgeloop.runtime.sources.port import Frame

    if asked.forgets:
        answering.forget()
    return Said(prediction=answering.answer(Frame(asked.name, data, asked.at_s, asked.media)))


def _tried(work: Callable[[], Said]) -> Said:
    """What it says, or what it failed of."""
    try:
        return work()
    except EdgeloopError as error:
        return Said(code=error.code, detail=str(error))
    except MemoryError:
        return Said(code=Unavailable.code, detail="it ran out of memory here")
    except Exception as error:  # noqa: BLE001 - the outer guard: one frame must not end the process
        sys.excepthook(type(error), error, error.__traceback__)
        return Said(code=EdgeloopError.code, detail=f"{type(error).__name__}: {error}")


def _say(pipe: int, said: Said) -> None:
    parts = packed(said)
    while parts:
        write_some(pipe, parts)


def _work(stream: BufferedReader, pipe: int) -> None:
    """Until the agent has nothing more to ask, or there is none."""
    found = read_header(stream, Order)
    if found is None:
        return
    order, size_bytes = found
    manifest = stream.read(size_bytes)
    answering = None

    def load() -> Said:
        nonlocal answering
        answering, told = _load(order, manifest)
        return Said(loaded=told)

    end_with(order.parent, within_s=order.load_s + _GRACE_S)
    said = _tried(load)
    if answering is None:
        _say(pipe, said)
        return
    at_work, bounded = answering, Bounded()
    bounded.within_s = order.answer_s + _GRACE_S
    with bounded:  # which ends the time for loading, too
        _say(pipe, said)
    frames = _Frames(stream)
    while (frame := frames.read()) is not None:
        asked, data = frame
        with bounded:
            said = _tried(partial(_answer, at_work, asked, data))
        _say(pipe, said)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the agent, which ends this process
    pipe = take_stdout()
    die_first()
    with open(0, "rb", closefd=False) as stream, suppress(BrokenPipeError):  # then the agent has ended
        _work(stream, pipe)
    sys.stderr.flush()
    os._exit(0)  # what native libraries would tidy up goes with the process


if __name__ == "__main__":
    _main()
