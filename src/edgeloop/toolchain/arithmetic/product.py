"""One operator of a model that multiplies: how often, and in which numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Product:
    """An operator's products.

    activations, weights: dtypes by NumPy's names, with int4 and without signs: what is stored as uint8 is "int8".
    quantizes_as_it_goes: whether float activations are quantized for the product, as dynamic-range kernels do.
    """

    operator: str
    multiply_adds: int
    activations: str
    weights: str
    quantizes_as_it_goes: bool = False
