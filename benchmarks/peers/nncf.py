"""NNCF's post-training int8, on OpenVINO and on ONNX.

Its documented way: `nncf.quantize(model, nncf.Dataset(...))` with bias correction, which is on by default. Activations
asymmetric (preset "mixed"), as its documentation advises for accuracy; the whole calibration set is used.
"""

import contextlib
import io
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contender import Contender
from edgeloop.runtime.engines.openvino import import_openvino, pack_ir, without_openvino_telemetry
from edgeloop.toolchain.source.model import Format


def openvino_int8(model: bytes, calibration: NDArray[np.float32]) -> Contender:
    """The float ONNX model, converted to OpenVINO and quantized. calibration: (N, ...) real inputs."""
    openvino = import_openvino()
    network = openvino.Core().read_model(model=model)
    network.reshape([1, *calibration.shape[1:]])
    made = _quantized(network, calibration, lambda sample: sample)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(made, str(path))
        data = pack_ir(path.read_bytes(), path.with_suffix(".bin").read_bytes())
    return Contender("NNCF int8 on OpenVINO", Format.OPENVINO, data)


def onnx_int8(model: bytes, calibration: NDArray[np.float32]) -> Contender:
    """The float ONNX model, quantized as ONNX. calibration: (N, ...) real inputs."""
    import onnx

    graph = onnx.load_from_string(model)
    name = graph.graph.input[0].name
    made = _quantized(graph, calibration, lambda sample: {name: sample})
    return Contender("NNCF int8 on ONNX", Format.ONNX, made.SerializeToString())


def _quantized(network: Any, calibration: NDArray[np.float32], feed: Any) -> Any:
    said = io.StringIO()
    with without_openvino_telemetry(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        import nncf

        nncf.set_log_level(logging.ERROR)
        samples = [calibration[index : index + 1] for index in range(len(calibration))]
        return nncf.quantize(
            network,
            nncf.Dataset(samples, feed),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples),
        )
