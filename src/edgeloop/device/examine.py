"""Try one variant of a new version on this machine, in a process that may die of it.

Run as `python -m edgeloop.device.examine`. It reads one line of JSON, a Question, and the manifest's bytes from
standard input, and prints one line of JSON, the Findings. It answers the golden samples, races the settings and leaves
the winner in the device's folder of races, where the agent finds it; then it times the winner.

All but the timing is done at low priority, so that the version that is at work goes on answering. The timing is
short, and done as the agent itself will run the model: in the winning setting, at the agent's own priority, beside
whatever else the device does. Peak memory is that of one predictor, before the race loads several at once: the figure
that `Measured` and `Budget` have.

Neighbours: `accept` starts this and judges how it ended; `runtime.replay`, `runtime.load` do the work.
"""

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import msgspec

from edgeloop.bundle.archive import Bundle, parse_manifest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import EdgeloopError, Unavailable
from edgeloop.contracts.manifest import Variant
from edgeloop.runtime.child import die_first, end_with, take_stdout

_GRACE_S = 5.0
"""After its deadline the agent ends this process, with a word on why; it ends by itself only if there is no agent."""
_POLITE = 10
"""Of 19: about a tenth of the processor where others want it, too."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What to try: a variant, by its file's hash, of a bundle whose files are on the shelf.

    races, threads, race_s: see `device.config.Pace`. parent: the agent's process number. within_s: the longest that it
    may take.
    """

    shelf: str
    variant: str
    races: str
    threads: int | None
    race_s: float
    parent: int
    within_s: float


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. failure: why the variant may not run here, None if it may.

    is_passing: the failure says something of this moment on this machine, such as its free memory, its disk or an
    engine that is not there, and nothing of the model; another time it may do. latency_p50_ms: in the setting that
    answers soonest; 0.0 where it was not timed.
    """

    failure: str | None = None
    is_passing: bool = False
    latency_p50_ms: float = 0.0
    peak_memory_bytes: int = 0


def examine(question: Question, manifest: bytes) -> Findings:
    """Prove, race and time a variant. Whatever it fails of is told in the findings."""
    bundle = Bundle(parse_manifest(manifest), Shelf(Path(question.shelf)), manifest_bytes=manifest)
    try:
        variant = bundle.variant(question.variant)
        with ThreadPoolExecutor(1, initializer=_give_way) as polite:
            proven = polite.submit(_prove_and_race, bundle, variant, question).result()
        return proven if proven.failure is not None else _timed(bundle, variant, question, proven)
    except EdgeloopError as error:
        is_of_here = isinstance(error, Unavailable) or not _is_whole(bundle, question.variant)
        return Findings(failure=f"does not run: {error}", is_passing=is_of_here)
    except MemoryError:
        return Findings(failure="it ran out of memory here", is_passing=True)


def _is_whole(bundle: Bundle, variant: str) -> bool:
    """Whether what it was tried with is what the manifest says; else it was the disk that failed."""
    try:
        for sha256 in (*bundle.manifest.shared_files, variant):
            bundle.read(sha256)
    except EdgeloopError:
        return False
    return True


def _give_way() -> None:
    if sys.platform == "linux":  # where priorities are a thread's own, and the threads' that it starts
        mine = threading.get_native_id()
        # Of an agent that is more polite already: to be less so is a right of root's.
        os.setpriority(os.PRIO_PROCESS, mine, max(_POLITE, os.getpriority(os.PRIO_PROCESS, mine)))


def _prove_and_race(bundle: Bundle, variant: Variant, question: Question) -> Findings:
    from edgeloop.runtime.engines.port import Setting
    from edgeloop.runtime.engines.settings import Aim
    from edgeloop.runtime.footprint import peak_memory_bytes
    from edgeloop.runtime.load import load_fastest
    from edgeloop.runtime.predictor import Predictor
    from edgeloop.runtime.replay import golden_failure

    # What answers wrong is told so before anything is raced.
    predictor = Predictor(bundle, variant, setting=Setting(threads=question.threads or 1))
    failure = golden_failure(bundle, variant, predictor)
    peak_bytes = peak_memory_bytes()
    predictor.close()
    failure = failure or _too_big(bundle, peak_bytes)
    if failure is None and question.race_s > 0:
        load_fastest(
            bundle,
            [variant],
            threads=question.threads,
            race_s=question.race_s,
            folder=Path(question.races),
            aim=Aim.SMALL,
        ).close()
    return Findings(failure=failure, peak_memory_bytes=peak_bytes)


def _too_big(bundle: Bundle, peak_bytes: int) -> str | None:
    bound = bundle.manifest.budget.max_peak_memory_bytes
    if bound is None or peak_bytes <= bound:
        return None
    return f"too big here: peaks at {peak_bytes:,} bytes of memory, the bundle's budget is {bound:,}"


def _timed(bundle: Bundle, variant: Variant, question: Question, proven: Findings) -> Findings:
    from edgeloop.runtime.load import load_fastest
    from edgeloop.runtime.replay import Judge, latency_p50_ms, too_slow

    winner = load_fastest(bundle, [variant], threads=question.threads, race_s=0.0, folder=Path(question.races))
    inputs, _ = Judge.read(bundle)
    latency_ms = latency_p50_ms(winner, inputs)
    winner.close()
    return msgspec.structs.replace(proven, failure=too_slow(bundle, latency_ms), latency_p50_ms=latency_ms)


def _main(asked: BinaryIO) -> None:
    answer = take_stdout()
    question = msgspec.json.decode(asked.readline(), type=Question)
    end_with(question.parent, within_s=question.within_s + _GRACE_S)
    die_first()
    os.write(answer, to_json(examine(question, asked.read())) + b"\n")


if __name__ == "__main__":
    _main(sys.stdin.buffer)
