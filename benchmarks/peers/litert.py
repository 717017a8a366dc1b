"""ai-edge-quantizer alone: full-integer int8 of the float LiteRT file, with its own recipe, calibrated.

Its documented way: `recipe.static_wi8_ai8()`, calibrate on a representative set, quantize. No search, no retraining.
"""

import contextlib
import io

import numpy as np
from numpy.typing import NDArray

from benchmarks.contender import Contender
from edgeloop.runtime.engines.quiet import without_native_chatter
from edgeloop.toolchain.source.model import Format


def static_int8(model: bytes, calibration: NDArray[np.float32]) -> Contender:
    """The float LiteRT model as int8. calibration: (N, ...) real inputs."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    said = io.StringIO()
    with without_native_chatter(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        (signature,) = Interpreter(model_content=model).get_signature_list().items()
        key, tensors = signature
        samples = {key: [{tensors["inputs"][0]: calibration[i : i + 1]} for i in range(len(calibration))]}
        work = quantizer.Quantizer(bytearray(model))
        work.load_quantization_recipe(recipe.static_wi8_ai8())
        made = bytes(work.quantize(work.calibrate(samples)).quantized_model)
    return Contender("ai-edge-quantizer int8", Format.LITERT, made)
