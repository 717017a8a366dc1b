"""scikit-learn estimators and pipelines to ONNX, float32 in, scores out under the source's name."""

import warnings
from typing import Any

from edgeloop.contracts.errors import Refused, Unavailable
from edgeloop.toolchain.convert.onnx import rename_onnx
from edgeloop.toolchain.source.model import Model
from edgeloop.toolchain.source.sklearn import INPUT, SCORES

_OPSET = {"": 18, "ai.onnx.ml": 3}


def sklearn_to_onnx(model: Model) -> bytes:
    """ONNX bytes that give what the source gives: probabilities, decision scores or predicted values. The label
    output is left out: it is the highest score's, and a bundle names its labels.

    Raises Refused, naming the estimator, if a step has no converter.
    """
    proto = _converted(model)
    scores = proto.graph.output[-1].name
    del proto.graph.output[:-1]
    # The converter declares one column for some two-class decisions, and gives two.
    (_, columns) = proto.graph.output[0].type.tensor_type.shape.dim
    columns.dim_value = model.only_output().shape[1]
    return rename_onnx(proto.SerializeToString(deterministic=True), {scores: model.only_output().name})


def _converted(model: Model) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from skl2onnx import convert_sklearn
            from skl2onnx.common.data_types import FloatTensorType
            from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator
    except ImportError as error:
        raise Unavailable(
            f"scikit-learn to ONNX needs skl2onnx ({error}); install it with: pip install 'edgeloop[toolchain]'"
        ) from error
    width = model.only_input().shape[1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convert_sklearn(
                model.native,
                initial_types=[(INPUT, FloatTensorType([None, width]))],
                # By the last step: asked of the whole pipeline, a two-class SVC's decision comes out negated.
                options={id(_last(model.native)): _options(model)},
                target_opset=_OPSET,
            )
    # skl2onnx raises RuntimeError, NameError and what onnx makes of wrong attributes, besides its own two.
    except (MissingConverter, MissingShapeCalculator, RuntimeError, NameError, ValueError, TypeError) as error:
        raise Refused(
            f"{model.name} cannot become ONNX: {_culprit(model.native)}: {str(error).strip().splitlines()[0]} "
            "Leave that step out, or teach a Keras student with 'edgeloop distil'"
        ) from error


def _options(model: Model) -> dict[str, bool]:
    last = _last(model.native)
    if not hasattr(last, "classes_"):
        return {}
    # Linear support vectors have no map of labels to switch off.
    options = {} if type(last).__name__ in ("LinearSVC",) else {"zipmap": False}
    return options | ({"raw_scores": True} if model.only_output().name == SCORES else {})


def _last(estimator: Any) -> Any:
    steps = getattr(estimator, "steps", None)
    return _last(steps[-1][1]) if steps else estimator


def _culprit(estimator: Any) -> str:
    """The kinds of the steps, so that a message that names none still says where to look."""
    steps = getattr(estimator, "steps", None)
    return " → ".join(type(one).__name__ for _, one in steps) if steps else type(estimator).__name__
