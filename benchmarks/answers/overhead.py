"""What `predict` costs beyond the engine's bare call, for an array."""

import time
from collections.abc import Iterator

import numpy as np

from benchmarks import bundles
from benchmarks.context import Context, Work
from benchmarks.hand.cases import digit_images
from benchmarks.rows import Row, at_most
from edgeloop.bundle.archive import open_bundle
from edgeloop.runtime.load import able_here, load_fastest

NAME = "overhead"

_MOST_US = 25.0
_ROUNDS = 20_000


def _rows(context: Context) -> Iterator[Row]:
    path, _ = bundles.digits(context)
    bundle = open_bundle(path)
    predictor = load_fastest(bundle, able_here(bundle), threads=1)
    images = [image for image, _ in digit_images(context.assets)]
    call = predictor.engine_call()
    beyond, whole = [], []
    for number in range(_ROUNDS):
        image = images[number % len(images)]
        started = time.perf_counter_ns()
        predictor.predict(image)
        between = time.perf_counter_ns()
        call()
        ended = time.perf_counter_ns()
        whole.append(between - started)
        beyond.append((between - started) - (ended - between))
    yield at_most(
        NAME, "predict beyond the bare call, us", "", ours=float(np.median(beyond)) / 1e3, theirs=None, bound=_MOST_US,
        note=f"digits int8 from a (28, 28) array, {predictor.setting}; predict in all "
        f"{np.median(whole) / 1e3:.1f} us; medians of {_ROUNDS:,}",
    )  # fmt: skip


WORK = Work(NAME, "predict beside the engine's bare call, array input", _rows)
