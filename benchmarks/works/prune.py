"""Structured pruning of a residual net to half of its multiply-adds: points lost after fine-tuning, time saved.

The net and the data are those of the Fashion-MNIST work. Both forms are float LiteRT, judged on the test images and
timed in one run.
"""

from collections.abc import Iterator

from benchmarks import data, floats
from benchmarks.contender import Contender, standings
from benchmarks.context import Context, Work
from benchmarks.rows import Row, at_most, ratio_at_most
from edgeloop.toolchain.convert.keras import export_keras
from edgeloop.toolchain.data.dataset import prepare
from edgeloop.toolchain.prune.measures import By
from edgeloop.toolchain.prune.structured import PruneRecipe, prune
from edgeloop.toolchain.source.model import Format
from edgeloop.toolchain.source.open import open_model

NAME = "prune"

_BEFORE, _AFTER = "before pruning", "after pruning"
# LiteRT's kernels compute 16 channels at a time where the processor has AVX-512, 8 with AVX2: half of the multiply-adds
# left in other widths took 0.67 to 0.70 of the time there, in multiples of 16 they took 0.52 to 0.58.
_RECIPE = PruneRecipe(keep=0.5, by=By.ACTIVATION, multiple_of=16, images_seen=300_000, batch_size=128, distil=True)


def _rows(context: Context) -> Iterator[Row]:
    images = data.fashion(context.cache)
    source = open_model(floats.trained(floats.RESNET_10, images, context.cache, context.tell))
    prepared = prepare(images.learn, source.only_input())
    made, report = prune(source, _RECIPE, prepared, progress=context.progress(NAME))
    stand = standings(
        {
            name: Contender(name, Format.LITERT, export_keras(model, Format.LITERT))
            for name, model in ((_BEFORE, source), (_AFTER, made))
        },
        images.judge_inputs,
        images.judge_labels,
    )
    before, after = stand[_BEFORE], stand[_AFTER]
    macs = report.macs_before, report.macs_after
    yield ratio_at_most(NAME, "multiply_adds", _BEFORE, ours=macs[1], theirs=macs[0], bound=_RECIPE.keep)
    lost = 100 * (before.accuracy - after.accuracy)
    note = f"{100 * before.accuracy:.2f} % right before, {100 * after.accuracy:.2f} % after"
    yield at_most(NAME, "points_lost", _BEFORE, ours=lost, theirs=0.0, bound=1.0, note=note)
    yield ratio_at_most(NAME, "latency_ms", _BEFORE, ours=after.latency_ms, theirs=before.latency_ms, bound=0.65)
    note = f"{before.size_bytes:,} B before"
    yield Row(
        work=NAME,
        figure="size_bytes",
        peer=_BEFORE,
        ours=after.size_bytes,
        theirs=before.size_bytes,
        ratio=after.size_bytes / before.size_bytes,
        note="no bound is set",
    )


WORK = Work(NAME, "residual net to half of its multiply-adds: <= 1 point lost, <= 0.65 of the latency", _rows)
