"""From a JPEG, an array or raw sound to the answer, one thread, beside the loop by hand.

Both are first held to the same truth. Of photos there are two rows: the pixels of the loop by hand, and what a bundle
may say as well, a JPEG decoded at a part of its size.
"""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from benchmarks import bundles
from benchmarks.answers.turns import medians_ms
from benchmarks.context import Context, Work
from benchmarks.hand import cases
from benchmarks.rows import Row, at_least, ratio_at_most
from edgeloop.bundle.archive import Bundle, open_bundle
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.load import able_here, load_fastest
from edgeloop.runtime.predictor import Predictor

NAME = "end to end"

_PEER = "hand loop"
_SLOWEST = 1.02
_SPEED_UP = 1.6
_ROUNDS, _SECONDS = 2000, 12.0


class Decodes(StrEnum):
    """What a work decodes of its JPEGs."""

    NOTHING = "nothing"
    IN_PART = "in part"
    WHOLE = "whole"


@dataclass(frozen=True)
class _Beside:
    """title: as the row calls it."""

    title: str
    case: cases.Case
    bundle: Bundle
    read: Callable[[Prediction], Any]
    decodes: Decodes = Decodes.NOTHING


def _rows(context: Context) -> Iterator[Row]:
    import cv2

    cv2.setNumThreads(1)
    in_part, whole = [], []
    for one in _works(context):
        predictor = load_fastest(one.bundle, able_here(one.bundle), threads=1)
        row = _row(one, predictor)
        predictor.close()
        yield row
        speed_up = 1 / row.ratio if row.ratio else math.nan
        if one.decodes is not Decodes.WHOLE:
            in_part.append(speed_up)
        if one.decodes is not Decodes.IN_PART:
            whole.append(speed_up)
    for what, speed_ups in (("JPEGs in part", in_part), ("JPEGs whole", whole)):
        told = ", ".join(f"{one:.2f}" for one in speed_ups)
        yield at_least(
            NAME, f"geometric mean of speed-ups, {what}", _PEER, ours=statistics.geometric_mean(speed_ups), theirs=1.0,
            bound=_SPEED_UP, note=f"of {told}",
        )  # fmt: skip


def _row(one: _Beside, predictor: Predictor) -> Row:
    right = cases.share_right(lambda given: one.read(predictor.predict(given)), one.case.questions)
    theirs = cases.share_right(one.case.loop, one.case.questions)
    if right < one.case.least_right:
        raise RuntimeError(f"{one.title}: only {right:.0%} of the answers are right")
    inputs = [question.given for question in one.case.questions]
    took = medians_ms({"ours": predictor.predict, "theirs": one.case.loop}, inputs, rounds=_ROUNDS, seconds=_SECONDS)
    variant = predictor.variant
    return ratio_at_most(
        NAME, f"{one.title}, ms", _PEER, ours=took["ours"], theirs=took["theirs"], bound=_SLOWEST,
        note=f"{variant.engine} {variant.precision}, {predictor.setting}; right: ours {right:.0%}, theirs {theirs:.0%}",
    )  # fmt: skip


def _works(context: Context) -> Iterator[_Beside]:
    assets = context.assets
    digits, model = bundles.digits(context)
    case = cases.digits_from_array(assets, model)
    yield _Beside(f"{case.name}, int8", case, open_bundle(digits), lambda made: int(made.label or -1))
    photos = (
        (cases.mobilenet_v1(assets), bundles.mobilenet_v1(context), _label),
        (cases.mobilenet_v2(assets), bundles.mobilenet_v2(context), _label),
        (cases.ultraface(assets), bundles.ultraface(context), _corners),
    )
    for case, bundle, read in photos:
        yield _Beside(f"{case.name}, JPEG in part", case, open_bundle(bundle), read, Decodes.IN_PART)
        yield _Beside(f"{case.name}, JPEG whole", case, bundles.decoded_whole(bundle), read, Decodes.WHOLE)
    case = cases.keyword_spotting(assets)
    yield _Beside(f"{case.name}, raw sound", case, open_bundle(bundles.keywords(context)), _label)


def _label(made: Prediction) -> Any:
    return made.label


def _corners(made: Prediction) -> Any:
    return [(box.left, box.top, box.right, box.bottom) for box in made.boxes]


WORK = Work(NAME, "from raw input to answer, one thread, beside the loop by hand", _rows)
