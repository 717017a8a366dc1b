"""What a model file computes, read from the file itself: its multiply-adds, and in which numbers.

Only products count (convolutions, dense layers, matrix products), as papers count them; additions, activations and
pooling do not. A file that holds something whose products cannot be told (loops, recurrence, custom operators, trees)
has no count: None, never a guess. Neighbours: `litert` and `onnx` read the formats, `prune.macs` counts Keras models;
`profiles` turns a count into a latency.
"""

from collections.abc import Sequence

from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.arithmetic.litert import litert_products
from edgeloop.toolchain.arithmetic.onnx import onnx_products
from edgeloop.toolchain.arithmetic.product import Product
from edgeloop.toolchain.prune.macs import count
from edgeloop.toolchain.source.model import Format, Model

_FLOATS = ("float32", "float64")
_BY_NUMBERS = {
    ("int8", "int8"): Precision.INT8,
    ("int16", "int8"): Precision.INT16,
    ("int8", "int4"): Precision.INT4,
    ("float32", "float16"): Precision.FLOAT16,
    ("float16", "float16"): Precision.FLOAT16,
}


def multiply_adds(model: Model) -> int | None:
    """Of one inference, one sample. None for formats that are not read here, and for models that cannot be counted."""
    if model.format is Format.KERAS:
        cost = count(model.native)
        return None if cost.uncounted else cost.macs
    products = _products(model)
    return None if products is None else sum(product.multiply_adds for product in products)


def multiply_adds_by_precision(model: Model) -> dict[Precision, int]:
    """Of one inference, by the numbers that they are computed in; empty where one or the other cannot be told.

    A Keras model is float32 while it is one, so it has no precision of its own here.
    """
    found: dict[Precision, int] = {}
    for product in _products(model) or ():
        precision = _precision(product)
        if precision is None:
            return {}
        found[precision] = found.get(precision, 0) + product.multiply_adds
    return found


def precision_of(model: Model) -> Precision | None:
    """In which numbers its products are computed: `mixed` where they differ. None where it cannot be told."""
    found = list(multiply_adds_by_precision(model))
    if not found:
        return None
    return found[0] if len(found) == 1 else Precision.MIXED


def _products(model: Model) -> Sequence[Product] | None:
    if model.format is Format.LITERT:
        return litert_products(model.data)
    if model.format is Format.MCU:  # data is the C header
        return litert_products(model.native)
    if model.format is Format.ONNX:
        return onnx_products(model.data)
    return None


def _precision(product: Product) -> Precision | None:
    activations, weights = product.activations, product.weights
    if activations in _FLOATS and weights in _FLOATS:
        return Precision.FLOAT32
    if activations in _FLOATS and weights in ("int8", "int4"):
        if product.quantizes_as_it_goes:
            return Precision.INT8_DYNAMIC if weights == "int8" else Precision.INT4_DYNAMIC
        return Precision.INT8_WEIGHTS if weights == "int8" else Precision.INT4_WEIGHTS
    return _BY_NUMBERS.get((activations, weights))
