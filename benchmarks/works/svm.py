"""Black-box distillation: a scikit-learn SVM on digits teaches a small net that LiteRT runs.

The teacher is a pipeline with its scaler, asked for its scores and nothing else; peer: the same pipeline through
skl2onnx on ONNX Runtime. Data: the 5,000 digits that come with the toolchain; the SVM and the student learn from the
same part, the holdout judges both.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks.contender import Contender, measure_latency
from benchmarks.context import Context, Work
from benchmarks.data import as_tensor
from benchmarks.peers import skl2onnx
from benchmarks.rows import Row, at_most, ratio_at_most
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.convert.keras import export_keras
from edgeloop.toolchain.data.dataset import Dataset, field_to_fit, prepare
from edgeloop.toolchain.data.digits import BUNDLED, load_digits
from edgeloop.toolchain.distil import DistilRecipe, distil
from edgeloop.toolchain.source.model import Format
from edgeloop.toolchain.source.sklearn import wrap_sklearn

NAME = "svm"

_PEER, _OURS = "SVM through skl2onnx", "edgeloop"
# There are labels, and an SVM is often wrong on digits that are turned or shifted: it does not teach alone.
_RECIPE = DistilRecipe(width=2.0, images_seen=120_000, most_asked=12_000, teacher_weight=0.5)
_SHARE = 1 / 10
_MOST_LOST = 0.5


def _rows(context: Context) -> Iterator[Row]:
    dataset = field_to_fit(load_digits(BUNDLED, seed=0))
    context.tell(f"{NAME}: fitting the SVM to {len(dataset.fit):,} digits")
    svm = _fitted(dataset)
    height, width = dataset.fit.inputs.shape[1:]
    prepared = prepare(dataset, TensorSpec("image", (1, height, width, 1), "float32"))
    made, report = distil(wrap_sklearn(svm, name="svm"), _RECIPE, prepared, progress=context.progress(NAME))
    student = Contender(_OURS, Format.LITERT, export_keras(made, Format.LITERT))
    judge = dataset.holdout
    images = as_tensor(judge.inputs)
    peer = skl2onnx.exported(svm, height * width)
    took_ms = measure_latency({_OURS: student, _PEER: peer}, images[:1])
    right = student.accuracy(images, judge.labels), peer.accuracy(images.reshape(len(images), -1), judge.labels)
    note = f"float32, {report.parameters:,} parameters; the teacher was asked {report.asked:,} times"
    yield ratio_at_most(
        NAME, "size_bytes", _PEER, ours=student.size_bytes, theirs=peer.size_bytes, bound=_SHARE, note=note
    )
    yield ratio_at_most(NAME, "latency_ms", _PEER, ours=took_ms[_OURS], theirs=took_ms[_PEER], bound=_SHARE)
    lost = 100 * (right[1] - right[0])
    note = f"{100 * right[1]:.1f} % right before, {100 * right[0]:.1f} % after, of {len(judge):,}"
    yield at_most(NAME, "points_lost", _PEER, ours=lost, theirs=0.0, bound=_MOST_LOST, note=note)


def _fitted(dataset: Dataset) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler
    from sklearn.svm import SVC

    part = dataset.fit
    rows = as_tensor(part.inputs).reshape(len(part), -1)
    return make_pipeline(MinMaxScaler(), SVC(C=10.0, gamma=0.03)).fit(rows, part.labels)


WORK = Work(NAME, "a scikit-learn SVM distilled into LiteRT: 10 times faster, 10 times smaller, <= 0.5 points", _rows)
