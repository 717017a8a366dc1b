"""MLPerf Tiny's ResNet-8 from its legacy .h5: converted, and int8 without data of its own.

Calibrated on crops of two photos, since no CIFAR-10 comes with it. Beside it the reference's float and int8 files.
"""

from collections.abc import Iterator

import numpy as np

from benchmarks import data
from benchmarks.contender import Contender
from benchmarks.context import Context, Work
from benchmarks.rows import Row, at_most
from edgeloop.toolchain.convert.keras import export_keras
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import QuantizeRecipe
from edgeloop.toolchain.source.model import Format
from edgeloop.toolchain.source.open import open_model

NAME = "resnet8"

_PEER_FLOAT, _PEER_INT8 = "MLPerf Tiny float LiteRT", "MLPerf Tiny reference int8"
_PARITY = 1e-4
_CALIBRATION, _JUDGED = 256, 256
_SIDE_PX = 32


def _rows(context: Context) -> Iterator[Row]:
    folder = context.assets / "mlperf_tiny"
    source = open_model(data.require(folder / "pretrainedResnet.h5"))
    theirs = {
        name: Contender(name, Format.LITERT, data.require(folder / file).read_bytes())
        for name, file in ((_PEER_FLOAT, "pretrainedResnet.tflite"), (_PEER_INT8, "pretrainedResnet_quant.tflite"))
    }
    crops = data.photo_crops(context.assets, _CALIBRATION + _JUDGED, side_px=_SIDE_PX, seed=0).astype(np.float32)
    calibrate, judge = crops[:_CALIBRATION], crops[_CALIBRATION:]
    mine = Contender("edgeloop float", Format.LITERT, export_keras(source, Format.LITERT))
    scores = mine.scores(judge)
    error = float(np.abs(scores - theirs[_PEER_FLOAT].scores(judge)).max())
    note = f"largest difference of any score over {_JUDGED} crops"
    yield at_most(NAME, "max_abs_error", _PEER_FLOAT, ours=error, theirs=None, bound=_PARITY, note=note)
    made, report = quantize(source, QuantizeRecipe(calibration_samples=_CALIBRATION), calibrate)
    small = Contender("edgeloop int8", Format.LITERT, made.data)
    agreement = {one.name: _agreement(one, judge, scores) for one in (small, theirs[_PEER_INT8])}
    yield at_most(
        NAME,
        "size_bytes",
        _PEER_INT8,
        ours=small.size_bytes,
        theirs=theirs[_PEER_INT8].size_bytes,
        bound=theirs[_PEER_INT8].size_bytes,
        note=f"{report.scheme}; agrees with float on {agreement[small.name]}, the reference on {agreement[_PEER_INT8]}",
    )


def _agreement(one: Contender, inputs: "np.ndarray", expected: "np.ndarray") -> str:
    return f"{100 * (one.scores(inputs).argmax(axis=1) == expected.argmax(axis=1)).mean():.1f} % of crops"


WORK = Work(NAME, "ResNet-8: converts with parity <= 1e-4; int8 without data of its own <= 98,496 B", _rows)
