"""How long a fresh process takes to its first answer: import, load, one image; ours and the loop by hand in turns.

A command says its answer in one line of JSON, `label` and `inside_ms`, the time since its first line of Python. What
the person at the terminal waits besides is the interpreter's own start, the same for all; both are reported, and the
stricter ratio is that of the time inside.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

_ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_S = 60

_OURS = """
import time
started = time.perf_counter()
import json, sys
import edgeloop
found = edgeloop.load(sys.argv[1]).predict(sys.argv[2])
took_ms = 1000 * (time.perf_counter() - started)
sys.stdout.write(json.dumps({"label": found.label, "inside_ms": took_ms}) + chr(10))
"""


class Said(msgspec.Struct, frozen=True):
    """What a command prints."""

    label: str
    inside_ms: float


@dataclass(frozen=True)
class FirstAnswer:
    """Medians in milliseconds. inside: since the first line of Python. waited: since the process was asked for, until
    its answer was read. label: what it answered, every time."""

    inside_ms: float
    waited_ms: float
    label: str


def by_hand(model: Path, image: Path) -> list[str]:
    """The command of the loop by hand. model: LiteRT; image: a PNG."""
    return [sys.executable, "-m", "benchmarks.hand.first", str(model.absolute()), str(image.absolute())]


def ours(bundle: Path, image: Path) -> list[str]:
    """Our command: the public interface, the race remembered if this bundle was loaded here before."""
    return [sys.executable, "-c", _OURS, str(bundle.absolute()), str(image.absolute())]


def first_answers(commands: Mapping[str, Sequence[str]], *, rounds: int, seed: int = 0) -> dict[str, FirstAnswer]:
    """Each command's first answer, by key: run in turns, in an order that changes; a first round warms the disk.

    Raises RuntimeError with its last words if one fails or does not say the same label each time.
    """
    rng = np.random.default_rng(seed)
    keys = list(commands)
    told: dict[str, list[tuple[Said, float]]] = {key: [] for key in keys}
    for round_ in range(1 + rounds):
        for index in rng.permutation(len(keys)):
            answer = _run(commands[keys[index]])
            if round_:
                told[keys[index]].append(answer)
    return {key: _summed_up(key, each) for key, each in told.items()}


def _run(command: Sequence[str]) -> tuple[Said, float]:
    """What it said, and after how many milliseconds."""
    started = time.perf_counter()
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=_ROOT, env=_environment()
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        waited_ms = 1000 * (time.perf_counter() - started)
        _, complaint = process.communicate(timeout=_TIMEOUT_S)
    if process.returncode != 0 or not line:
        raise RuntimeError(f"{command[1:3]} ended with {process.returncode}: {complaint.decode()[-500:]}")
    return msgspec.json.decode(line, type=Said), waited_ms


def _environment() -> dict[str, str]:
    """Python may keep what it compiles, as it does where a package is installed: else the sources of a checkout are
    compiled at each start, and the libraries beside them are not."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _summed_up(key: str, told: Sequence[tuple[Said, float]]) -> FirstAnswer:
    labels = {said.label for said, _ in told}
    if len(labels) != 1:
        raise RuntimeError(f"{key} answered {sorted(labels)} to the same image")
    return FirstAnswer(
        inside_ms=float(np.median([said.inside_ms for said, _ in told])),
        waited_ms=float(np.median([waited_ms for _, waited_ms in told])),
        label=labels.pop(),
    )
