"""ONNX Runtime's static quantization: QDQ int8, weights per channel, as its documentation advises for CPUs.

Source: onnxruntime.quantization.quantize_static, "Choosing parameters for CPU inference": QDQ, activations uint8,
weights int8; weights of 7 bits (reduce_range) only on x86 without VNNI. The model is preprocessed first (shapes,
graph optimization), as the same page says.
"""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.contender import Contender
from edgeloop.toolchain.source.model import Format


def static_int8(model: bytes, calibration: NDArray[np.float32]) -> Contender:
    """The float ONNX model as QDQ int8. calibration: (N, ...) real inputs."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = onnx.load_from_string(model).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self._left = iter(range(len(calibration)))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            index = next(self._left, None)
            return None if index is None else {name: calibration[index : index + 1]}

    with tempfile.TemporaryDirectory() as folder:
        given, prepared, made = (Path(folder) / f"{stage}.onnx" for stage in ("given", "prepared", "made"))
        given.write_bytes(model)
        quant_pre_process(str(given), str(prepared))
        quantize_static(
            str(prepared),
            str(made),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=not has_vnni(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return Contender("ONNX Runtime static int8", Format.ONNX, made.read_bytes())


def has_vnni() -> bool:
    """Whether this processor multiplies bytes without saturating: all but older x86."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return True
    flags = cpuinfo.read_text()
    return "vnni" in flags or ("GenuineIntel" not in flags and "AuthenticAMD" not in flags)
