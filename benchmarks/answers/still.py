"""A scene of which 80 % of the frames show what the one before showed, with the result cache and without."""

import statistics
import time
from collections.abc import Iterator, Sequence

from numpy.typing import NDArray

from benchmarks import bundles
from benchmarks.context import Context, Work
from benchmarks.photos import Frame, still_scene
from benchmarks.rows import Row, at_least, at_most
from edgeloop.bundle.archive import Bundle, open_bundle
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.cache import ResultCache
from edgeloop.runtime.load import able_here, load_fastest

NAME = "still scene"

_FRAMES = 500
_ROUNDS = 5
_FASTER = 4.0
_MOST_CHANGED = 0.005


def _rows(context: Context) -> Iterator[Row]:
    frames = list(still_scene(context.assets, _FRAMES))
    for title, path in (("UltraFace", bundles.ultraface(context)), ("MobileNetV2", bundles.mobilenet_v2(context))):
        context.tell(f"{NAME}: {title}")
        yield from _model(title, open_bundle(path), frames)


def _model(title: str, bundle: Bundle, frames: list[Frame]) -> Iterator[Row]:
    predictor = load_fastest(bundle, able_here(bundle), threads=1)
    pixels = [frame.pixels for frame in frames]
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(_ROUNDS):
        predictor.cache = None
        rate, computed = _answers(predictor.predict, pixels)
        rates[False].append(rate)
        predictor.cache = ResultCache(bundle.manifest)
        rate, taken = _answers(predictor.predict, pixels)
        rates[True].append(rate)
        counters = predictor.cache.counters
    without, with_cache = (statistics.median(rates[cached]) for cached in (False, True))
    predictor.close()
    still = [number for number, frame in enumerate(frames) if not frame.changed]
    told, said = [[(one.label, len(one.boxes)) for one in made] for made in (computed, taken)]
    by_itself = sum(told[number] != told[number - 1] for number in still) / len(still)
    changed = sum(one != other for one, other in zip(told, said, strict=True)) / len(frames)
    fewest = fewest_computed([frame.changed for frame in frames], told, most_changed=int(_MOST_CHANGED * len(frames)))
    yield at_least(
        NAME, f"{title}, frames a second", "without cache", ours=with_cache, theirs=without, bound=_FASTER * without,
        note=f"{len(frames)} frames of 640x480, {len(still) / len(frames):.0%} unchanged but for sensor noise, built "
        f"from two photos (photos.py); {counters.computed} computed, {fewest} at the least by whoever does not see the "
        f"noise and changes {_MOST_CHANGED:.1%} of the answers, which is {len(frames) / fewest:.2f} times with hits at "
        f"no cost; bounds: near {bundle.manifest.reuse.near:.0%}, sure {bundle.manifest.reuse.sure:.0%}",
    )  # fmt: skip
    yield at_most(
        NAME, f"{title}, share of answers changed", "without cache", ours=changed, theirs=0.0, bound=_MOST_CHANGED,
        note=f"without a cache {by_itself:.1%} of the unchanged frames change the answer by themselves, by their noise",
    )  # fmt: skip


def fewest_computed(is_new: Sequence[bool], told: Sequence[object], *, most_changed: int) -> int:
    """How many frames must be computed by whoever tells views apart without a mistake, but not frames of one view.

    is_new: whether a frame shows another view than the one before; told: its answer when it is computed. Of each view
    either one answer stands for all frames, which changes those that are answered otherwise, or all are computed; no
    more than most_changed answers may change in all.
    """
    views: list[list[object]] = []
    for new, answer in zip(is_new, told, strict=True):
        if new or not views:
            views.append([])
        views[-1].append(answer)
    computed, left = len(views), most_changed
    for others, frames in sorted((len(view) - max(map(view.count, view)), len(view)) for view in views):
        left -= others
        computed += 0 if left >= 0 else frames - 1
    return computed


def _answers(predict: object, pixels: Sequence[NDArray]) -> tuple[float, list[Prediction]]:  # type: ignore[type-arg]
    """Frames a second, and what was answered."""
    assert callable(predict)
    started = time.perf_counter()
    made = [predict(one) for one in pixels]
    return len(pixels) / (time.perf_counter() - started), made


WORK = Work(NAME, "a still scene with the result cache beside the same without", _rows)
