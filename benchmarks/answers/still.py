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
    yield at_least(
        NAME, f"{title}, frames a second", "without cache", ours=with_cache, theirs=without, bound=_FASTER * without,
        note=f"{len(frames)} frames of 640x480, {len(still) / len(frames):.0%} unchanged but for sensor noise, built "
        f"from two photos (photos.py); {counters.computed} computed; bounds: near "
        f"{bundle.manifest.reuse.near:.0%}, sure {bundle.manifest.reuse.sure:.0%}",
    )  # fmt: skip
    yield at_most(
        NAME, f"{title}, share of answers changed", "without cache", ours=changed, theirs=0.0, bound=_MOST_CHANGED,
        note=f"without a cache {by_itself:.1%} of the unchanged frames change the answer by themselves, by their noise",
    )  # fmt: skip


def _answers(predict: object, pixels: Sequence[NDArray]) -> tuple[float, list[Prediction]]:  # type: ignore[type-arg]
    """Frames a second, and what was answered."""
    assert callable(predict)
    started = time.perf_counter()
    made = [predict(one) for one in pixels]
    return len(pixels) / (time.perf_counter() - started), made


WORK = Work(NAME, "a still scene with the result cache beside the same without", _rows)
