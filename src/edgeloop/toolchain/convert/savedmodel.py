"""SavedModels to LiteRT and ONNX, through their serving signature."""

import warnings
from typing import Any

from edgeloop.contracts.errors import Refused
from edgeloop.toolchain.convert.keras import converter_error, count_names_anew, operator_in, quietly
from edgeloop.toolchain.source.model import Model
from edgeloop.toolchain.source.savedmodel import SIGNATURE


def savedmodel_to_litert(model: Model) -> bytes:
    """LiteRT bytes, the batch fixed to 1. Raises Refused if an operator is not LiteRT's."""
    import tensorflow as tf

    loaded, concrete = _concrete(model)
    with warnings.catch_warnings(), quietly():
        warnings.simplefilter("ignore")
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], loaded)
        try:
            return bytes(converter.convert())
        except converter_error() as error:
            raise Refused(
                f"{model.name} cannot become LiteRT: it has no operator {operator_in(error)!r}; export the model "
                "without it, or convert to onnx"
            ) from error


def savedmodel_to_onnx(model: Model) -> bytes:
    """ONNX bytes, the batch fixed to 1."""
    import tensorflow as tf
    import tf2onnx
    from keras.src.export.tf2onnx_lib import patch_tf2onnx

    loaded, _ = _concrete(model)
    signature = loaded.signatures[SIGNATURE]
    names = [spec.name for spec in model.inputs]
    function = tf.function(lambda *tensors: signature(**dict(zip(names, tensors, strict=True))))
    with warnings.catch_warnings(), quietly():
        warnings.simplefilter("ignore")
        patch_tf2onnx()
        count_names_anew()
        proto, _ = tf2onnx.convert.from_function(function, _specs(model), opset=18)
    return bytes(proto.SerializeToString())


def _concrete(model: Model) -> tuple[Any, Any]:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(model.native))
    signature = loaded.signatures[SIGNATURE]
    function = tf.function(lambda **tensors: signature(**tensors))
    return loaded, function.get_concrete_function(**{spec.name: spec for spec in _specs(model)})


def _specs(model: Model) -> list[Any]:
    import tensorflow as tf

    return [tf.TensorSpec(spec.shape, spec.dtype, name=spec.name) for spec in model.inputs]
