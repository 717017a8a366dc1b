"""A residual net of 92 % or more on Fashion-MNIST: a twelfth of its float size at half a point."""

from collections.abc import Iterator

from benchmarks import data, floats
from benchmarks.contender import Contender
from benchmarks.context import Context, Work
from benchmarks.peers.front import Floats
from benchmarks.rows import Row, at_least
from benchmarks.works import search
from edgeloop.toolchain.source.model import Format
from edgeloop.toolchain.source.open import open_model

NAME = "fashion"

_BOUNDS = search.Bounds(max_drop=0.5, size_share=1 / 12)
_FLOAT_ACCURACY = 0.92


def _rows(context: Context) -> Iterator[Row]:
    images = data.fashion(context.cache)
    model = floats.trained(floats.RESNET_10, images, context.cache, context.tell)
    plain = Contender(search.FLOAT, Format.LITERT, Floats.of(open_model(model)).litert)
    right = plain.accuracy(images.judge_inputs, images.judge_labels)
    yield at_least(NAME, "float_accuracy", search.FLOAT, ours=right, theirs=None, bound=_FLOAT_ACCURACY)
    yield from search.rows(NAME, images, model, _BOUNDS, context)


WORK = Work(NAME, "residual net on Fashion-MNIST: <= 1/12 of the float size, <= 0.5 points lost", _rows)
