"""How near the race's winner comes to the best of all candidates, timed at length.

Each of 20 races has the time that `load` gives it by default, in turns with nothing else. What the winner's setting
takes is read off one exhaustive run over all candidates, far longer than a race, so that a race is judged by what it
chose and not by its own clock.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import bundles
from benchmarks.answers.turns import medians_ms
from benchmarks.context import Context, Work
from benchmarks.rows import Row, at_most
from edgeloop.bundle.archive import Bundle, open_bundle
from edgeloop.contracts.manifest import Variant
from edgeloop.runtime.engines.port import Setting
from edgeloop.runtime.load import able_here
from edgeloop.runtime.race import Lane, enter, entries, run_race

NAME = "race"

_RACES = 20
_WITHIN = 1.05
_ROUNDS, _SECONDS = 1500, 25.0

_Key = tuple[str, str, Setting]


def _rows(context: Context) -> Iterator[Row]:
    digits, _ = bundles.digits(context)
    for title, bundle in (
        ("digits", digits),
        ("MobileNetV1 0.25", bundles.mobilenet_v1(context)),
        ("MobileNetV2", bundles.mobilenet_v2(context)),
        ("UltraFace", bundles.ultraface(context)),
        ("keyword spotting", bundles.keywords(context)),
    ):
        context.tell(f"{NAME}: {title}")
        yield _row(title, bundle)


def _row(title: str, path: Path) -> Row:
    bundle = open_bundle(path)
    able = able_here(bundle)
    best_ms = _exhaustive_ms(bundle, able)
    least = min(best_ms.values())
    regrets = []
    for _ in range(_RACES):
        race, predictor = run_race(bundle, variants=able)
        predictor.close()
        winner = race.winner
        regrets.append(best_ms[winner.variant, winner.engine, winner.setting] / least)
    within = sum(regret <= _WITHIN for regret in regrets)
    return at_most(
        NAME, f"{title}: worst of {_RACES} winners, of the best", "all, at length", ours=max(regrets), theirs=1.0,
        bound=_WITHIN, note=f"{within} of {_RACES} within 5 %, median {np.median(regrets):.3f}; {len(best_ms)} ran",
    )  # fmt: skip


def _exhaustive_ms(bundle: Bundle, able: list[Variant]) -> dict[_Key, float]:
    lanes = [enter(bundle, variant, setting) for variant, setting in entries(able, None)]
    running: dict[str, Lane] = {str(index): lane for index, lane in enumerate(lanes) if lane.predictor is not None}
    ways = {key: lane.predictor.predict for key, lane in running.items() if lane.predictor is not None}
    took = medians_ms(ways, list(lanes[0].judge.inputs), rounds=_ROUNDS, seconds=_SECONDS)
    found = {(lane.variant.file, lane.variant.engine.value, lane.setting): took[key] for key, lane in running.items()}
    for lane in lanes:
        lane.close()
    return found


WORK = Work(NAME, "the race's winner beside every engine and setting, 20 races each", _rows)
