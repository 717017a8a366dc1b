"""edgeloop: from a trained model to a fleet that improves itself.

>>> import edgeloop
>>> edgeloop.__version__
'0.1.0'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeloop.contracts.errors import EdgeloopError
    from edgeloop.contracts.prediction import Prediction
    from edgeloop.runtime.predictor import Predictor, load
    from edgeloop.toolchain.check import CheckRecipe, check
    from edgeloop.toolchain.compress.compress import Origin, compare, compress, student_data
    from edgeloop.toolchain.compress.plan import CompressRecipe
    from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
    from edgeloop.toolchain.data.dataset import prepare
    from edgeloop.toolchain.data.open import open_dataset
    from edgeloop.toolchain.distil import DistilRecipe, distil
    from edgeloop.toolchain.package import Bounds
    from edgeloop.toolchain.prune.structured import PruneRecipe, prune
    from edgeloop.toolchain.quantize.quantize import quantize
    from edgeloop.toolchain.quantize.recipe import QuantizeRecipe
    from edgeloop.toolchain.repeat import repeat
    from edgeloop.toolchain.source.open import open_model
    from edgeloop.toolchain.source.save import save_model
    from edgeloop.toolchain.train import TrainRecipe, train
    from edgeloop.toolchain.transfer import TransferRecipe, transfer

__version__ = "0.1.0"

__all__ = [
    "Bounds",
    "CheckRecipe",
    "CompressRecipe",
    "ConvertRecipe",
    "DistilRecipe",
    "EdgeloopError",
    "Origin",
    "Prediction",
    "Predictor",
    "PruneRecipe",
    "QuantizeRecipe",
    "TrainRecipe",
    "TransferRecipe",
    "__version__",
    "check",
    "compare",
    "compress",
    "convert",
    "distil",
    "load",
    "open_dataset",
    "open_model",
    "prepare",
    "prune",
    "quantize",
    "repeat",
    "save_model",
    "student_data",
    "train",
    "transfer",
]

_HOME = {
    "Bounds": "edgeloop.toolchain.package",
    "CheckRecipe": "edgeloop.toolchain.check",
    "CompressRecipe": "edgeloop.toolchain.compress.plan",
    "ConvertRecipe": "edgeloop.toolchain.convert.convert",
    "DistilRecipe": "edgeloop.toolchain.distil",
    "EdgeloopError": "edgeloop.contracts.errors",
    "Origin": "edgeloop.toolchain.compress.compress",
    "Prediction": "edgeloop.contracts.prediction",
    "Predictor": "edgeloop.runtime.predictor",
    "PruneRecipe": "edgeloop.toolchain.prune.structured",
    "QuantizeRecipe": "edgeloop.toolchain.quantize.recipe",
    "TrainRecipe": "edgeloop.toolchain.train",
    "TransferRecipe": "edgeloop.toolchain.transfer",
    "check": "edgeloop.toolchain.check",
    "compare": "edgeloop.toolchain.compress.compress",
    "compress": "edgeloop.toolchain.compress.compress",
    "convert": "edgeloop.toolchain.convert.convert",
    "distil": "edgeloop.toolchain.distil",
    "load": "edgeloop.runtime.predictor",
    "open_dataset": "edgeloop.toolchain.data.open",
    "open_model": "edgeloop.toolchain.source.open",
    "prepare": "edgeloop.toolchain.data.dataset",
    "prune": "edgeloop.toolchain.prune.structured",
    "quantize": "edgeloop.toolchain.quantize.quantize",
    "repeat": "edgeloop.toolchain.repeat",
    "save_model": "edgeloop.toolchain.source.save",
    "student_data": "edgeloop.toolchain.compress.compress",
    "train": "edgeloop.toolchain.train",
    "transfer": "edgeloop.toolchain.transfer",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first asked for, so that `import edgeloop` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'edgeloop' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
