"""The classic Keras CNN on all of MNIST: 56 times smaller and three times faster at 0.3 points, in ten minutes."""

from collections.abc import Iterator

from benchmarks import data, floats
from benchmarks.context import Context, Work
from benchmarks.rows import Row
from benchmarks.works import search

NAME = "mnist"

_BOUNDS = search.Bounds(max_drop=0.3, size_bytes=16 * 1024, latency_share=1 / 3)


def _rows(context: Context) -> Iterator[Row]:
    images = data.mnist(context.assets, context.cache)
    model = floats.trained(floats.CLASSIC_CNN, images, context.cache, context.tell)
    yield from search.rows(NAME, images, model, _BOUNDS, context)


WORK = Work(NAME, "classic CNN on MNIST: <= 16 KB, <= 1/3 of the float latency, <= 0.3 points lost", _rows)
