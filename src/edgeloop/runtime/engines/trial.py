"""Run a model once, in another process, before it is run in this one.

A broken driver or delegate does not raise: it aborts the process, or never answers. So an engine's setting that is new
here is first tried in a child, `python -m edgeloop.runtime.engines.trial`, which may die of it.

The child reads one line of JSON, a Trial, and the model's bytes from standard input, and prints one line of JSON, an
Outcome. What native libraries print goes to its standard error, of which a report keeps the last line.
"""

import os
import subprocess
import sys
from enum import StrEnum
from typing import BinaryIO

import msgspec

from edgeloop.contracts.codec import ready
from edgeloop.contracts.errors import EdgeloopError, NotFound
from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.child import command_of, end_of, last_line, take_stdout
from edgeloop.runtime.engines.find import list_accelerators, load_engine, probe_engine
from edgeloop.runtime.engines.litert import load_delegate
from edgeloop.runtime.engines.port import Setting
from edgeloop.runtime.engines.quiet import complaint
from edgeloop.runtime.engines.settings import DEFAULT

TIMEOUT_S = 60.0
"""Long enough for an accelerator that compiles the model first; TensorRT may want more."""


class What(StrEnum):
    """What a child is asked to do."""

    MODEL = "model"
    """Load the model that follows, and run it twice on zeros."""

    PROBE = "probe"
    """Run the engine's probe, and look at the answer."""

    DELEGATE = "delegate"
    """Start LiteRT's delegate of this name, without a model."""

    LIST = "list"
    """List the engine's accelerators."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One line on a child's standard input."""

    what: What
    engine: EngineName
    setting: Setting = DEFAULT
    batch: int = 1


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a trial. problem: empty when it went well. found: accelerators with their details, of a LIST.

    is_absent: what was asked for is not on this machine at all.
    """

    problem: str = ""
    is_absent: bool = False
    found: dict[str, str] = {}


def try_setting(
    name: EngineName, model: bytes, setting: Setting, *, batch: int = 1, timeout_s: float = TIMEOUT_S
) -> str | None:
    """Load a model and run it twice on zeros, in a child. None when it went well, else what went wrong."""
    trial = Trial(what=What.MODEL, engine=name, setting=setting, batch=batch)
    return try_out(trial, model, timeout_s=timeout_s).problem or None


def try_out(trial: Trial, model: bytes = b"", *, timeout_s: float = TIMEOUT_S) -> Outcome:
    """Make a trial in a child; its death and its silence are outcomes too."""
    command = command_of("edgeloop.runtime.engines.trial")
    asked = msgspec.json.encode(trial) + b"\n" + model
    try:
        done = subprocess.run(command, input=asked, capture_output=True, timeout=timeout_s, check=False)  # noqa: S603 our own module
    except subprocess.TimeoutExpired:
        return Outcome(problem=f"it did not answer within {timeout_s:g} s and was stopped")
    if done.returncode == 0:
        lines = done.stderr.decode(errors="replace").split("\n")
        return _with_reason(msgspec.json.decode(done.stdout, type=ready(Outcome)), complaint(lines))
    return Outcome(problem=f"its process {end_of(done.returncode)}: {last_line(done.stderr)}")


def _with_reason(outcome: Outcome, printed: str) -> Outcome:
    """The outcome with what its libraries printed and did not raise, as LiteRT does of its GPU."""
    if not outcome.problem or not printed or printed in outcome.problem:
        return outcome
    return msgspec.structs.replace(outcome, problem=f"{outcome.problem} ({printed})")


def _attempt(trial: Trial, model: bytes) -> Outcome:
    if trial.what is What.LIST:
        return Outcome(found=list_accelerators(trial.engine))
    if trial.what is What.PROBE:
        return Outcome(problem=probe_engine(trial.engine, setting=trial.setting) or "")
    if trial.what is What.DELEGATE:
        load_delegate(trial.setting.accelerator)
        return Outcome()
    engine = load_engine(trial.engine, model, setting=trial.setting, batch=trial.batch)
    engine.invoke()
    engine.invoke()
    engine.close()
    return Outcome()


def _main(asked: BinaryIO) -> None:
    answer = take_stdout()
    trial = msgspec.json.decode(asked.readline(), type=Trial)
    try:
        outcome = _attempt(trial, asked.read())
    except EdgeloopError as error:
        outcome = Outcome(problem=str(error), is_absent=isinstance(error, NotFound))
    os.write(answer, msgspec.json.encode(outcome) + b"\n")


if __name__ == "__main__":
    _main(sys.stdin.buffer)
