"""skl2onnx: a scikit-learn classifier as ONNX for ONNX Runtime, as its documentation says (`to_onnx`, no ZipMap).

Only the scores are kept as output, which spares ONNX Runtime the labels.
"""

import warnings
from typing import Any

from benchmarks.contender import Contender
from edgeloop.toolchain.source.model import Format


def exported(estimator: Any, width: int) -> Contender:
    """A fitted classifier of `width` features."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = to_onnx(estimator, initial_types=[("input", FloatTensorType([None, width]))], options={"zipmap": False})
        scores = made.graph.output[-1].name
        made = select_model_inputs_outputs(made, outputs=[scores])
    return Contender("SVM through skl2onnx", Format.ONNX, made.SerializeToString())
