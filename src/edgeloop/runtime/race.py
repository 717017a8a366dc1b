"""Which variant, on which engine, in which setting answers soonest on this machine.

No engine wins everywhere, so what could run here is timed here, in rounds: in each round every candidate that is
still in the race answers the same golden sample, in an order that changes, so that whatever else the machine does
falls on all alike. Candidates that stay clearly behind are dropped, so that the time goes to those that are near to
one another. The median counts, and fewer threads where medians are not told apart. Every answer is compared with the
float model's as it comes: a candidate whose golden samples do not agree is out, and none wins before it has passed all
of them. See `contracts.manifest.Golden`.

Neighbours: `load` starts a race and remembers its outcome, `cli.bench` shows one, `replay` judges a single variant.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import Bundle
from edgeloop.contracts.errors import EdgeloopError, Unavailable
from edgeloop.contracts.manifest import Variant
from edgeloop.runtime.engines.port import CPU, Setting
from edgeloop.runtime.engines.settings import Aim, Found, settings_for
from edgeloop.runtime.outcome import RACE_S, Race, Runner
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.remembered import available_cores
from edgeloop.runtime.replay import Judge, Pairs

_WARM_UP_RUNS = 2
_SETTLED = ((4, 1.6), (10, 1.25), (24, 1.1), (60, 1.04))
"""After so many rounds, who takes more than this times the best leaves: rough early, fine late."""
_HOPEFUL = 0.25
"""The quantile of its times by which a candidate leaves: a few that other work fell on do not cost it the race."""
SAME = 1.03
"""Two medians of one machine that differ by less are not told apart."""
_MOST_ROUNDS = 400
_FEWEST_ROUNDS = 3
"""However long a round takes: who was never timed must not win, and be remembered."""


@dataclass
class Lane:
    """One candidate at work."""

    variant: Variant
    setting: Setting
    predictor: Predictor | None
    judge: Judge
    took_ms: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def latency_ms(self) -> float:
        """The median so far, infinite before the first turn.

        Not less of a time: several threads are often quick when all of them are awake, and as often not.
        """
        return float(np.median(self.took_ms)) if self.took_ms else float("inf")

    @property
    def hopeful_ms(self) -> float:
        """The lower quartile so far, infinite before the first turn."""
        return float(np.quantile(self.took_ms, _HOPEFUL)) if self.took_ms else float("inf")

    def out(self, why: str) -> None:
        """Take it out of the race."""
        self.failure = why
        self.close()

    def close(self) -> None:
        """Give up its memory; what it showed so far stays."""
        if self.predictor is not None:
            self.predictor.close()
            self.predictor = None

    def runner(self) -> Runner:
        """How it did."""
        return Runner(
            variant=self.variant.file,
            engine=self.variant.engine,
            precision=self.variant.precision,
            setting=self.setting,
            latency_ms=round(self.latency_ms, 6) if self.took_ms else None,
            rounds=len(self.took_ms),
            failure=self.failure,
        )


def run_race(
    bundle: Bundle,
    *,
    variants: Iterable[Variant],
    threads: int | None = None,
    found: tuple[Found, ...] = (),
    aim: Aim = Aim.SOONEST,
    seconds: float = RACE_S,
    now_s: Callable[[], float] = time.perf_counter,
) -> tuple[Race, Predictor]:
    """Time what could run here; returns the outcome and the winner, loaded.

    variants: those that take part, in every setting worth trying, the most promising first. threads: only settings
    with so many. found: accelerators that take part, too. seconds: the race ends then, loading included, but never
    before three rounds, and before the winner has passed all golden samples. Raises Unavailable with every reason if no
    candidate runs and passes.
    """
    started_s = now_s()
    pairs = Judge.read(bundle)
    inputs, _ = pairs
    entered = entries(variants, threads, found, aim=aim)
    lanes = [enter(bundle, variant, setting, pairs) for variant, setting in entered]
    rng = np.random.default_rng(0)
    ends_s = started_s + seconds
    for number in range(_MOST_ROUNDS):
        running = [lane for lane in lanes if lane.predictor is not None]
        is_measured = number >= _FEWEST_ROUNDS
        if not running or (is_measured and (len(running) == 1 or now_s() >= ends_s)):
            break
        for index in rng.permutation(len(running)):
            take_turn(running[index], inputs, number, now_s)
        _drop(running, number + 1)
    winner = _prove(lanes, inputs, now_s)
    if winner is None:
        raise Unavailable(
            none_runs(bundle, (f"{one.variant.engine} {one.variant.precision}: {one.failure}" for one in lanes))
        )
    assert winner.predictor is not None
    predictor, winner.predictor = winner.predictor, None
    for lane in lanes:
        lane.close()
    ranked = sorted(lanes, key=lambda lane: (lane is not winner, lane.failure is not None, lane.latency_ms))
    race = Race(runners=tuple(lane.runner() for lane in ranked), seconds=round(now_s() - started_s, 3))
    predictor.race = race
    return race, predictor


def entries(
    variants: Iterable[Variant],
    threads: int | None,
    found: "tuple[Found, ...]" = (),
    *,
    aim: Aim = Aim.SOONEST,
) -> list[tuple[Variant, Setting]]:
    """Who takes part: each variant in every setting worth trying here, or only in those with so many threads."""
    cores = available_cores()
    return [
        (variant, setting)
        for variant in variants
        for setting in settings_for(variant.engine, cores=cores, threads=threads, found=found, aim=aim)
    ]


def enter(bundle: Bundle, variant: Variant, setting: Setting, pairs: Pairs | None = None) -> Lane:
    """Load one candidate; one that does not load is out at once, with the reason."""
    lane = Lane(variant, setting, None, Judge(bundle, variant, pairs=pairs))
    try:
        if setting.accelerator != CPU:
            from edgeloop.runtime.engines.trial import try_setting

            # A driver that crashes on this model must take nobody with it.
            lane.failure = try_setting(variant.engine, bundle.read(variant.file), setting)
        if lane.failure is None:
            lane.predictor = Predictor(bundle, variant, setting=setting)
    except EdgeloopError as error:
        lane.failure = f"does not load: {error}"
    return lane


def take_turn(lane: Lane, inputs: NDArray[np.generic], number: int, now_s: Callable[[], float]) -> None:
    """One round of one candidate: timed, and its answer judged while golden samples are left."""
    assert lane.predictor is not None
    index = number % len(inputs)
    try:
        if number == 0:
            for _ in range(_WARM_UP_RUNS):
                lane.predictor.predict(inputs[index])
        began_s = now_s()
        lane.predictor.predict(inputs[index])
        lane.took_ms.append((now_s() - began_s) * 1e3)
        if lane.judge.seen == number < len(inputs):
            lane.judge.take(lane.predictor.last_basis())
    except EdgeloopError as error:
        lane.out(str(error))
        return
    if lane.judge.seen == len(inputs) == number + 1:
        failure = lane.judge.verdict()
        if failure is not None:
            lane.out(failure)


def _drop(running: Sequence[Lane], rounds: int) -> None:
    able = [lane for lane in running if lane.predictor is not None]
    for index in stragglers([lane.hopeful_ms for lane in able], [lane.latency_ms for lane in able], rounds):
        able[index].close()


def stragglers(hopeful_ms: Sequence[float], latency_ms: Sequence[float], rounds: int) -> list[int]:
    """Who leaves after so many rounds, by place: whose better times are too far behind the best one's usual ones."""
    most = dict(_SETTLED).get(rounds)
    if most is None or not latency_ms:
        return []
    best = min(latency_ms)
    return [index for index, one in enumerate(hopeful_ms) if one > most * best]


def ranking(latency_ms: Sequence[float], threads: Sequence[int]) -> list[int]:
    """The places by merit: the least latency first; of those that are not told apart from it, the fewest threads.

    Fewer threads leave cores to others, and wait less for others to leave theirs.

    >>> ranking([0.99, 1.0, 1.5], [2, 1, 1])
    [1, 0, 2]
    """
    nearly = SAME * min(latency_ms, default=0.0)

    def merit(place: int) -> tuple[bool, int, float]:
        is_near = latency_ms[place] <= nearly
        return not is_near, threads[place] if is_near else 0, latency_ms[place]

    return sorted(range(len(latency_ms)), key=merit)


def _prove(lanes: Sequence[Lane], inputs: NDArray[np.generic], now_s: Callable[[], float]) -> Lane | None:
    """The fastest that passes all golden samples; those that the time was too short for are judged now.

    A candidate that was dropped as slow comes back only if all that were faster fail.
    """
    running = [lane for lane in lanes if lane.predictor is not None]
    dropped = sorted((lane for lane in lanes if lane.predictor is None), key=lambda lane: lane.latency_ms)
    order = ranking([lane.latency_ms for lane in running], [lane.setting.threads for lane in running])
    for lane in (*(running[place] for place in order), *dropped):
        if lane.failure is not None:
            continue
        if lane.predictor is None:
            again = enter(lane.judge.bundle, lane.variant, lane.setting)
            lane.predictor, lane.failure = again.predictor, again.failure
        while lane.predictor is not None and lane.judge.seen < len(inputs):
            take_turn(lane, inputs, lane.judge.seen, now_s)
        if lane.predictor is not None and lane.failure is None:
            return lane
    return None


def none_runs(bundle: Bundle, reasons: Iterable[str]) -> str:
    """What to say when nothing of a bundle runs here."""
    offered = ", ".join(f"{v.engine} {v.precision}" for v in bundle.manifest.variants)
    told = " ".join(dict.fromkeys(reasons)) or "None of these engines is installed and allowed here; install one."
    return f"no variant of {bundle.manifest.ref} runs here (it offers {offered}). {told}"
