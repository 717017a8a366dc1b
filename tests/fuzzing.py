"""The program of the fuzz test: malformed inputs of one kind, by every way in, in a process that may die of it.

    python tests/fuzzing.py --kind image --seed 1 --cases 6000       all of them; a report as JSON at the end
    python tests/fuzzing.py --kind image --seed 1 --case 17          one again, with a traceback
    python tests/fuzzing.py --kind image --seed 1 --case 17 --save F and its input in a file

A case depends on seed and number alone, and not on those before it. What ends it well is an answer or an EdgeloopError
with a clear message; everything else ends the process: exit code 1 with the case's traceback, or the signal that
killed it, SIGALRM for a case that takes too long. What it is busy with stands in the file named by --progress.
"""

import argparse
import ctypes
import faulthandler
import gc
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import psutil

from edgeloop.contracts.errors import EdgeloopError
from fuzz_case import Case

MOST_S = 5.0
"""That one case may take."""

_FEWEST_LETTERS, _MOST_LETTERS = 20, 4100
"""Of an error's message."""

_MIB = 2**20


class Kind(Protocol):
    """Makes cases of one kind."""

    def case(self, rng: random.Random) -> Case:
        """The next; only the generator decides which."""
        ...


class Failed(Exception):
    """A case that ended otherwise than it may."""


def main() -> None:
    """Run cases and print a report."""
    asked = _arguments()
    warnings.simplefilter("error")
    faulthandler.enable()
    faulthandler.register(signal.SIGALRM, chain=True)  # says where it hangs, and dies of it
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        kind = _open(asked.kind, Path(folder))
        if asked.case is not None:
            _again(kind, asked, asked.case)
            return
        try:
            report = run(kind, asked.kind, asked.seed, asked.cases, _teller(asked.progress))
        except Failed:
            traceback.print_exc()
            sys.exit(1)
        left = sorted(path.name for path in Path(folder).iterdir())
    print(json.dumps(report | {"files_left": left}))  # noqa: T201 this is the program's answer


def run(kind: Kind, name: str, seed: int, cases: int, tell: Callable[[int], None]) -> dict[str, object]:
    """All cases: how many ended how, and what of memory, descriptors and threads is there afterwards.

    grown_mib: of the memory between the first fifth of the cases and their end. Raises Failed at the first that does.
    """
    process, routes, codes, slowest_s, slowest = psutil.Process(), Counter[str](), Counter[str](), 0.0, 0
    early_mib, early_descriptors, early_threads = 0.0, 0, 0
    for number in range(cases):
        tell(number)
        began_s = time.perf_counter()
        route, code = attempt(_case(kind, name, seed, number))
        took_s = time.perf_counter() - began_s
        slowest_s, slowest = max((slowest_s, slowest), (took_s, number))
        routes[f"{route}: {code}"] += 1
        codes[code] += 1
        if number == cases // 5:
            early_mib, early_descriptors, early_threads = (
                _memory_mib(process),
                process.num_fds(),
                threading.active_count(),
            )
    late_mib = _memory_mib(process)
    return {
        "kind": name,
        "seed": seed,
        "cases": cases,
        "outcomes": dict(codes.most_common()),
        "routes": dict(sorted(routes.items())),
        "memory_mib": round(late_mib, 1),
        "grown_mib": round(late_mib - early_mib, 1),
        "descriptors_grown": process.num_fds() - early_descriptors,
        "threads_grown": threading.active_count() - early_threads,
        "slowest_s": round(slowest_s, 3),
        "slowest_case": slowest,
        "cpu_s": round(time.process_time(), 1),
    }


def attempt(case: Case) -> tuple[str, str]:
    """Run a case: its route and "answer", or its error's code. Raises Failed where it ends in any other way."""
    signal.setitimer(signal.ITIMER_REAL, MOST_S)
    try:
        case.run()
        code = "answer"
    except EdgeloopError as error:
        code = error.code
        _require_clear(str(error), case)
    except BaseException as error:
        raise Failed(f"{case.route}, {case.mutation}: {type(error).__name__}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return case.route, code


def _require_clear(message: str, case: Case) -> None:
    """Long enough to say something, short enough to be read, and nothing in it that does things to a terminal."""
    control = [one for one in message if not (one.isprintable() or one == "\n")]
    if not _FEWEST_LETTERS <= len(message) <= _MOST_LETTERS or control:
        shown = f"{len(message)} letters, {control[:4]!r} among them: {message[:300]!r}"
        raise Failed(f"{case.route}, {case.mutation}: its error is not clear: {shown}")


def _case(kind: Kind, name: str, seed: int, number: int) -> Case:
    return kind.case(random.Random(f"{name} {seed} {number}"))


def _again(kind: Kind, asked: argparse.Namespace, number: int) -> None:
    case = _case(kind, asked.kind, asked.seed, number)
    if asked.save is not None:
        asked.save.write_bytes(case.data)
    print(f"{case.route}, {case.mutation}, {len(case.data)} bytes: {case.data[:32]!r}", flush=True)  # noqa: T201
    try:
        case.run()
        print("an answer")  # noqa: T201
    except EdgeloopError as error:
        print(f"{error.code}: {error}")  # noqa: T201


def _open(name: str, folder: Path) -> Kind:
    if name == "image":
        from fuzz_images import Images

        return Images(folder)
    if name == "sound":
        from fuzz_sounds import Sounds

        return Sounds(folder)
    if name == "table":
        from fuzz_tables import Tables

        return Tables(folder)
    from fuzz_bundles import Bundles

    return Bundles(folder)


def _teller(path: Path | None) -> Callable[[int], None]:
    """Writes the number of the case that comes to where a parent finds it after a crash."""
    if path is None:
        return lambda _: None
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    return lambda number: (os.pwrite(descriptor, b"%010d" % number, 0), None)[1]


def _memory_mib(process: psutil.Process) -> float:
    """What is resident once all that is free was given back."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    return float(process.memory_info().rss) / _MIB


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Malformed inputs of one kind, in this process.")
    parser.add_argument("--kind", choices=("image", "sound", "table", "bundle"), required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--case", type=int)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--progress", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
