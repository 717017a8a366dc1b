"""What the toolchain's commands do, as functions: from a model and a recipe to a model and a report.

>>> from edgeloop.steps import QuantizeRecipe, open_dataset, open_model, prepare, quantize, save_model
"""

from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.check import CheckRecipe, check
from edgeloop.toolchain.compress.compress import Origin, compare, compress, student_data
from edgeloop.toolchain.compress.plan import CompressRecipe
from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
from edgeloop.toolchain.data.dataset import prepare
from edgeloop.toolchain.data.open import open_dataset
from edgeloop.toolchain.distil import DistilRecipe, distil
from edgeloop.toolchain.nets.name import NetName
from edgeloop.toolchain.package import Bounds
from edgeloop.toolchain.prune.structured import PruneRecipe, prune
from edgeloop.toolchain.prune.unstructured import SparsifyRecipe, sparsify
from edgeloop.toolchain.quantize.aware import AwareRecipe, QuantizeAwareRecipe, quantize_aware
from edgeloop.toolchain.quantize.quantize import quantize
from edgeloop.toolchain.quantize.recipe import QuantizeRecipe
from edgeloop.toolchain.quantize.sensitivity import MixedRecipe, mixed
from edgeloop.toolchain.repeat import Sources, repeat
from edgeloop.toolchain.source.keras import wrap_keras
from edgeloop.toolchain.source.model import Format
from edgeloop.toolchain.source.open import open_model
from edgeloop.toolchain.source.save import save_model
from edgeloop.toolchain.source.sklearn import wrap_sklearn
from edgeloop.toolchain.source.torch import wrap_torch
from edgeloop.toolchain.targets import Target
from edgeloop.toolchain.train import TrainRecipe, train
from edgeloop.toolchain.transfer import TransferRecipe, transfer

__all__ = [
    "AwareRecipe",
    "Bounds",
    "CheckRecipe",
    "CompressRecipe",
    "ConvertRecipe",
    "DistilRecipe",
    "Format",
    "MixedRecipe",
    "NetName",
    "Origin",
    "Precision",
    "PruneRecipe",
    "QuantizeAwareRecipe",
    "QuantizeRecipe",
    "Sources",
    "SparsifyRecipe",
    "Target",
    "TrainRecipe",
    "TransferRecipe",
    "check",
    "compare",
    "compress",
    "convert",
    "distil",
    "mixed",
    "open_dataset",
    "open_model",
    "prepare",
    "prune",
    "quantize",
    "quantize_aware",
    "repeat",
    "save_model",
    "sparsify",
    "student_data",
    "train",
    "transfer",
    "wrap_keras",
    "wrap_sklearn",
    "wrap_torch",
]
