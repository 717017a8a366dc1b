"""Whether a variant may run on this device: asked of a process of its own, and judged by how that ended; and its work.

Rules kept here: a model that crashes its engine, or never answers, costs that process and nothing else; what engines
leave in memory after golden samples and race goes with it; it fails closed; whatever happens to the agent, the process
does not outlive it. Neighbours: `examine` is that process, `update` asks; `isolated` has those that work.
"""

import asyncio
import os
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec
import psutil
import structlog

from edgeloop.bundle.archive import Bundle
from edgeloop.contracts.codec import ready, to_json
from edgeloop.contracts.manifest import Variant
from edgeloop.device.config import Pace
from edgeloop.device.examine import Findings, Question
from edgeloop.device.exchange import Order
from edgeloop.device.isolated import put_to_work, put_to_work_when_asked
from edgeloop.device.slots import AtWork
from edgeloop.runtime.child import FROM_OUTSIDE, OWN_GROUP, command_of, end_of, kill_group, last_line, signal_name

_log = structlog.get_logger(__name__)
_MOST_ANSWER_BYTES = 64 * 1024
_MOST_NOISE_BYTES = 4 * 1024
_CHUNK_BYTES = 64 * 1024


class Ask(Protocol):
    """How a question about a variant is answered."""

    async def __call__(self, question: Question, manifest: bytes) -> Findings:
        """See ask_process."""
        ...


class PutToWork(Protocol):
    """How a variant is put to work."""

    def __call__(self, order: Order, bundle: Bundle, variant: Variant) -> AtWork:
        """See isolated.put_to_work."""
        ...


async def ask_process(question: Question, manifest: bytes) -> Findings:
    """Have it answered by a process of its own. manifest: of the variant's bundle, as bytes.

    Takes at most question.within_s; cancelled, it leaves no process.
    """
    command = command_of("edgeloop.device.examine")
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=PIPE, **OWN_GROUP)
    try:
        async with asyncio.timeout(question.within_s):
            said, noise = await _converse(process, to_json(question) + b"\n" + manifest)
            code = await process.wait()
    except TimeoutError:
        return Findings(failure=f"it was not done within {question.within_s:g} s here and was stopped")
    finally:
        await _end(process)
    _log.debug("acceptance_said", exit_code=code, tail=noise.decode(errors="replace"))
    return outcome_of(code, said, noise)


class Acceptance:
    """Judges variants before they run here, and puts to work those that may. ask: how they are tried."""

    def __init__(self, pace: Pace, *, ask: Ask = ask_process, put_to_work: PutToWork = put_to_work) -> None:
        self._pace = pace
        self._ask = ask
        self._put_to_work = put_to_work

    @property
    def races(self) -> bool:
        """Whether a variant's settings are raced when it is judged."""
        return self._pace.race_s > 0

    @property
    def within_s(self) -> float:
        """How long an acceptance may take, with all variants that are tried."""
        return self._pace.accept_s

    async def judge(self, bundle: Bundle, variant: Variant, *, shelf: Path, within_s: float | None = None) -> Findings:
        """Try a variant whose files lie on the shelf; cancelled, it leaves nothing running. within_s: of the time that
        an acceptance may take, all of it unless told."""
        found = await self._judge(bundle, variant, shelf, self.within_s if within_s is None else within_s)
        _log.info(
            "variant_tried",
            bundle=str(bundle.manifest.ref),
            variant=f"{variant.engine} {variant.precision}",
            failure=found.failure or "",
            latency_p50_ms=round(found.latency_p50_ms, 3),
            peak_memory_bytes=found.peak_memory_bytes,
        )
        return found

    async def _judge(self, bundle: Bundle, variant: Variant, shelf: Path, within_s: float) -> Findings:
        lacks = no_room(variant, available_bytes=available_memory_bytes())
        if lacks is not None:
            return Findings(failure=lacks, is_passing=True)
        pace = self._pace
        question = Question(
            shelf=str(shelf),
            variant=variant.file,
            races=str(pace.races),
            threads=pace.threads,
            race_s=pace.race_s,
            parent=os.getpid(),
            within_s=within_s,
        )
        return await self._ask(question, bundle.manifest_bytes)

    def load(self, bundle: Bundle, variant: Variant, *, shelf: Path) -> AtWork:
        """At work in a process of its own, in the setting that won the race when it was judged; nothing is raced there.

        Raises Died if that process did not survive it, or what loading raises, see `runtime.load.load_fastest`.
        """
        return self._put_to_work(self._order(variant, shelf), bundle, variant)

    def load_when_asked(self, bundle: Bundle, variant: Variant, *, shelf: Path) -> AtWork:
        """The same, once there is a frame."""
        return put_to_work_when_asked(self._order(variant, shelf), bundle, variant)

    def _order(self, variant: Variant, shelf: Path) -> Order:
        pace = self._pace
        return Order(
            shelf=str(shelf),
            variant=variant.file,
            races=str(pace.races),
            threads=pace.threads,
            cache=pace.cache,
            load_s=pace.load_s,
            answer_s=pace.answer_s,
        )


def available_memory_bytes() -> int:
    """What could be used without swapping, as the system estimates it."""
    return int(psutil.virtual_memory().available)


def no_room(variant: Variant, *, available_bytes: int) -> str | None:
    """None if what the variant was measured to need, or at least its file, fits into what memory is free; else why not.

    Both are of a whole process: the variant is tried in one beside the agent.
    """
    needed_bytes = variant.measured.peak_memory_bytes if variant.measured is not None else variant.size_bytes
    if needed_bytes <= available_bytes:
        return None
    return (
        f"it needs {needed_bytes:,} bytes of memory, of which {available_bytes:,} are free here now; free some, or "
        "assign a smaller variant"
    )


async def _converse(process: Process, question: bytes) -> tuple[bytes, bytes]:
    """Its answer, and the end of what it wrote to standard error; both bounded."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.TaskGroup() as group:
        group.create_task(_tell(process.stdin, question))
        said = group.create_task(_read(process.stdout, slice(_MOST_ANSWER_BYTES)))
        noise = group.create_task(_read(process.stderr, slice(-_MOST_NOISE_BYTES, None)))
    return said.result(), noise.result()


async def _tell(stdin: asyncio.StreamWriter, question: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # it died before it had read all: its exit code says why
        stdin.write(question)
        await stdin.drain()
    stdin.close()


async def _read(stream: asyncio.StreamReader, kept: slice) -> bytes:
    """What comes until the end; of more than is kept, that part."""
    data = b""
    while chunk := await stream.read(_CHUNK_BYTES):
        data = (data + chunk)[kept]
    return data


async def _end(process: Process) -> None:
    """Kill it and what it started, if it still runs, and wait until it is gone."""
    if process.returncode is None:
        kill_group(process.pid)
    await process.wait()


def outcome_of(code: int, said: bytes, noise: bytes) -> Findings:
    """What a process found by its return code, as `subprocess` gives it, its answer, and what it wrote beside it."""
    if code == 0:
        try:
            return msgspec.json.decode(said, type=ready(Findings))
        except msgspec.DecodeError as error:
            return Findings(failure=f"its process gave no answer ({error}): {last_line(noise)}", is_passing=True)
    if -code in FROM_OUTSIDE:
        return Findings(
            failure=f"its process was ended by {signal_name(-code)}, as is done when memory runs out; free some, or "
            "assign a smaller variant",
            is_passing=True,
        )
    if code < 0:
        return Findings(failure=f"the model crashed the engine: {signal_name(-code)}; {last_line(noise)}")
    # Nothing that a model is known to do: it may as well be this installation.
    return Findings(failure=f"its process {end_of(code)}: {last_line(noise)}", is_passing=True)
