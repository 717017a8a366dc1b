"""MLPerf Tiny's keyword spotting: int8 calibrated on 200 of 1,000 clips, judged by agreement with float on the others.

Beside it the reference int8 file of MLPerf Tiny, on the same clips. One answer in 800 is 0.125 points, and two int8
forms of a net differ by as much from one choice of clips to the next, so five splits are drawn and their mean counts.
"""

from collections.abc import Iterator

import numpy as np

from benchmarks import data
from benchmarks.contender import Contender
from benchmarks.context import Context, Work
from benchmarks.rows import Row, at_least, at_most
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import QuantizeRecipe
from edgeloop.toolchain.source.model import Format
from edgeloop.toolchain.source.open import open_model

NAME = "kws"

_PEER = "MLPerf Tiny reference int8"
_CALIBRATION_CLIPS = 200
_SPLITS = 5


def _rows(context: Context) -> Iterator[Row]:
    folder = context.assets / "mlperf_tiny"
    source = open_model(data.require(folder / "kws_ref_model_float32.tflite"))
    reference = Contender(_PEER, Format.LITERT, data.require(folder / "kws_ref_model.tflite").read_bytes())
    clips, labels = data.keyword_clips(context.assets)
    expected = source.scores(clips).argmax(axis=1)
    found = reference.scores(clips).argmax(axis=1)
    agreements, right, sizes, scheme = [], [], [], ""
    for seed in range(_SPLITS):
        context.tell(f"{NAME}: split {seed + 1} of {_SPLITS}")
        order = np.random.default_rng(seed).permutation(len(clips))
        calibrate, judge = order[:_CALIBRATION_CLIPS], order[_CALIBRATION_CLIPS:]
        made, report = quantize(source, QuantizeRecipe(calibration_samples=_CALIBRATION_CLIPS), clips[calibrate])
        answers = Contender("edgeloop int8", Format.LITERT, made.data).scores(clips[judge]).argmax(axis=1)
        agreements.append([(answers == expected[judge]).mean(), (found[judge] == expected[judge]).mean()])
        right.append([(answers == labels[judge]).mean(), (found[judge] == labels[judge]).mean()])
        sizes.append(made.size_bytes)
        scheme = report.scheme
    ours, theirs = np.mean(agreements, axis=0).tolist()
    shares = np.mean(right, axis=0)
    each = ", ".join(f"{mine:.4f} and {other:.4f}" for mine, other in agreements)
    yield at_least(
        NAME,
        "agreement",
        _PEER,
        ours=ours,
        theirs=theirs,
        bound=theirs,
        note=f"{scheme}; right labels {shares[0]:.4f} and {shares[1]:.4f}; the splits: {each}",
    )
    yield at_most(NAME, "size_bytes", _PEER, ours=max(sizes), theirs=reference.size_bytes, bound=reference.size_bytes)


WORK = Work(NAME, "keyword spotting: int8 agrees with float as often as the reference's, file no larger", _rows)
