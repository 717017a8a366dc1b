"""Everything that could run a bundle here, side by side: latency, throughput, memory, and what it answers.

Unlike a race nothing is dropped while it is slow; like a race all take turns, so that whatever else the machine does
falls on all alike. Memory is measured in a process of its own for each. Neighbours: `race`, `footprint`.
"""

import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgeloop.bundle.archive import Bundle
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.manifest import EngineName, Precision, Variant
from edgeloop.runtime.child import command_of
from edgeloop.runtime.engines.port import Setting
from edgeloop.runtime.engines.settings import Found, is_parallel
from edgeloop.runtime.footprint import Footprint, Which
from edgeloop.runtime.outcome import Race, Runner
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.race import SAME, Lane, enter, entries, ranking, take_turn
from edgeloop.runtime.remembered import available_cores

_MOST_ROUNDS = 500
_THROUGHPUT_S = 0.3
_FOOTPRINT_TIMEOUT_S = 120.0


class Contender(msgspec.Struct, frozen=True, kw_only=True):
    """One variant in one setting.

    latency_*: of whole predictions, None if it does not run. throughput_per_s: predictions a second when as many of
    it as the cores have room for work side by side. peak_memory_bytes: of a process that does nothing else.
    agreement: share of golden samples with the float model's decision; max_abs_error: from the float model's answers.
    failure: why it may not be used.
    """

    variant: str
    engine: EngineName
    precision: Precision
    setting: Setting
    size_bytes: int
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    throughput_per_s: float | None = None
    peak_memory_bytes: int | None = None
    agreement: float | None = None
    max_abs_error: float | None = None
    failure: str | None = None


class Bench(msgspec.Struct, frozen=True, kw_only=True):
    """All contenders, the winner first, then by latency; those that may not be used last. why: the winner won.

    The winner is whom a race chooses: see `race.ranking`.
    """

    bundle: str
    contenders: tuple[Contender, ...]
    why: str
    rounds: int

    def as_race(self) -> Race | None:
        """The same as a race's outcome; None if nothing may be used."""
        if not self.contenders or self.contenders[0].failure is not None:
            return None
        return Race(runners=tuple(_runner(one, self.rounds) for one in self.contenders), seconds=0.0)


def bench(
    path: Path,
    bundle: Bundle,
    variants: Iterable[Variant],
    *,
    threads: int | None = None,
    found: tuple[Found, ...] = (),
    seconds: float = 10.0,
    progress: Callable[[float, str], None] = lambda _share, _what: None,
) -> Bench:
    """Measure every variant in every setting worth trying here. path: of the bundle, for processes of their own.

    seconds: for the rounds; throughput and memory take their own time. Nothing that fails ends it: it is told.
    """
    lanes = [enter(bundle, variant, setting) for variant, setting in entries(variants, threads, found)]
    rounds = _rounds(lanes, seconds, lambda share: progress(0.6 * share, "taking turns"))
    made = []
    for index, lane in enumerate(lanes):
        progress(0.6 + 0.4 * index / max(1, len(lanes)), f"memory of {lane.variant.engine} {lane.variant.precision}")
        made.append(_contender(path, bundle, lane))
        lane.close()
    ranked = _ranked(made)
    progress(1.0, "done")
    return Bench(bundle=str(bundle.manifest.ref), contenders=tuple(ranked), why=_why(ranked), rounds=rounds)


def _ranked(made: Sequence[Contender]) -> list[Contender]:
    able = [one for one in made if one.failure is None]
    order = ranking([one.latency_p50_ms or float("inf") for one in able], [one.setting.threads for one in able])
    winner = able[order[0]] if able else None
    return sorted(
        made, key=lambda one: (one is not winner, one.failure is not None, one.latency_p50_ms or float("inf"))
    )


def _runner(one: Contender, rounds: int) -> Runner:
    return Runner(
        variant=one.variant,
        engine=one.engine,
        precision=one.precision,
        setting=one.setting,
        latency_ms=one.latency_p50_ms,
        rounds=rounds,
        failure=one.failure,
    )


def _rounds(lanes: Sequence[Lane], seconds: float, progress: Callable[[float], None]) -> int:
    rng = np.random.default_rng(0)
    began_s = time.perf_counter()
    least = max((len(lane.judge.inputs) for lane in lanes), default=0)
    for number in range(_MOST_ROUNDS):
        share = (time.perf_counter() - began_s) / seconds if seconds > 0 else 1.0
        running = [lane for lane in lanes if lane.predictor is not None]
        if not running or (share >= 1.0 and number >= least):
            return number
        progress(min(1.0, share))
        for index in rng.permutation(len(running)):
            take_turn(running[index], running[index].judge.inputs, number, time.perf_counter)
    return _MOST_ROUNDS


def _contender(path: Path, bundle: Bundle, lane: Lane) -> Contender:
    variant = lane.variant
    known = Contender(
        variant=variant.file,
        engine=variant.engine,
        precision=variant.precision,
        setting=lane.setting,
        size_bytes=variant.size_bytes,
        failure=lane.failure,
    )
    if not lane.took_ms:
        return known
    max_abs_error = agreement = None
    if lane.judge.seen == len(lane.judge.inputs):
        max_abs_error, _, agreement = lane.judge.measured()
    return msgspec.structs.replace(
        known,
        latency_p50_ms=float(np.percentile(lane.took_ms, 50)),
        latency_p99_ms=float(np.percentile(lane.took_ms, 99)),
        throughput_per_s=None if lane.failure else _throughput_per_s(bundle, lane),
        peak_memory_bytes=None if lane.failure else _peak_memory_bytes(path, lane),
        agreement=agreement,
        max_abs_error=max_abs_error,
    )


def _throughput_per_s(bundle: Bundle, lane: Lane) -> float | None:
    """As many predictors as cores have room for, each on a thread of its own, for a moment."""
    can_share = is_parallel(lane.variant.engine, lane.setting)
    side_by_side = max(1, available_cores() // lane.setting.threads) if can_share else 1
    predictors: list[Predictor] = []
    try:
        predictors.extend(Predictor(bundle, lane.variant, setting=lane.setting) for _ in range(side_by_side))
        return _counted_per_s(predictors, lane)
    except EdgeloopError:
        return None
    finally:
        for predictor in predictors:
            predictor.close()


def _counted_per_s(predictors: Sequence[Predictor], lane: Lane) -> float:
    side_by_side = len(predictors)
    counts = [0] * side_by_side
    inputs = lane.judge.inputs
    ends_s = time.perf_counter() + _THROUGHPUT_S

    def work(index: int) -> None:
        while time.perf_counter() < ends_s:
            predictors[index].predict(inputs[counts[index] % len(inputs)])
            counts[index] += 1

    began_s = time.perf_counter()
    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(side_by_side)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began_s)


def _peak_memory_bytes(path: Path, lane: Lane) -> int | None:
    which = to_json(Which(variant=lane.variant.file, setting=lane.setting)).decode()
    command = [*command_of("edgeloop.runtime.footprint"), str(path), which]
    try:
        done = subprocess.run(  # noqa: S603 - our own module on a file that was named
            command, capture_output=True, timeout=_FOOTPRINT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        return None
    return from_json(done.stdout, Footprint, what="footprint").peak_memory_bytes


def _why(ranked: Sequence[Contender]) -> str:
    able = [one for one in ranked if one.failure is None and one.latency_p50_ms is not None]
    if not able:
        return "nothing runs here"
    winner = able[0]
    assert winner.latency_p50_ms is not None
    said = f"{winner.engine} {winner.precision} ({winner.setting}) answers in {winner.latency_p50_ms:.3f} ms"
    others = [one for one in able[1:] if one.latency_p50_ms is not None]
    if not others:
        return f"{said}; nothing else runs here and passes the golden samples"
    second = others[0]
    assert second.latency_p50_ms is not None
    behind = second.latency_p50_ms / winner.latency_p50_ms
    beside = f"{second.engine} {second.precision} ({second.setting})"
    if behind < SAME:
        return f"{said}, as good as {beside}: {100 * abs(behind - 1):.1f} % apart"
    return f"{said}, {behind:.2f} times faster than {beside}"
