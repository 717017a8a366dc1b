"""Float LiteRT to full-integer int8, calibrated on real inputs, through ai-edge-quantizer.

Weights symmetric per channel, activations asymmetric per tensor, min-max calibrated: real = scale * (q - zero).
Source: Jacob et al. 2018 (arXiv 1712.05877).
"""

import contextlib
import io
import warnings

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Refused, Unavailable
from edgeloop.runtime.quiet import without_native_chatter
from edgeloop.toolchain.quantize.recipe import require_calibratable


def quantize_int8(model: bytes, calibration: NDArray[np.float32], input_name: str) -> bytes:
    """An int8 model of a float one, integer in and out.

    calibration: (N, ...) preprocessed real inputs, 16 or more. Raises InvalidInput if they cannot calibrate,
    Refused if the model cannot be quantized.
    """
    require_calibratable({input_name: calibration})
    try:
        from ai_edge_quantizer import quantizer, recipe
    except ImportError as error:
        raise Unavailable(
            f"quantization needs ai-edge-quantizer ({error}); install it with: pip install 'edgeloop[toolchain]'"
        ) from error
    samples = {"serving_default": [{input_name: calibration[i : i + 1]} for i in range(len(calibration))]}
    quiet = io.StringIO()
    try:
        # It prints progress and sizes; ours are the report's.
        with (
            warnings.catch_warnings(),
            without_native_chatter(),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
        ):
            warnings.simplefilter("ignore")
            work = quantizer.Quantizer(bytearray(model))
            work.load_quantization_recipe(recipe.static_wi8_ai8())
            return bytes(work.quantize(work.calibrate(samples)).quantized_model)
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise Refused(f"ai-edge-quantizer cannot make this model int8: {error}") from error
