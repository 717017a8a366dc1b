"""Neural Compressor in a Python of its own: static int8 of an ONNX model, tuned until accuracy holds.

Run as `python neural_compressor_worker.py FOLDER`: reads model.onnx and data.npz (calibration, inputs, labels), writes
made.onnx. Imports nothing of ours: its environment holds Neural Compressor and what that needs.

Its documented way for ONNX Runtime: `quantization.fit` with PostTrainingQuantConfig(approach="static") and an accuracy
function on data that is neither trained on nor judged with; it tries configurations until one loses at most a share
of the accuracy. quant_level 1, the configurable tuning, and 0.1 % as the loss that is allowed.
"""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

MOST_TRIALS = 30
ALLOWED_LOSS = 0.001


class Loader:
    """Batches of one, with a label that calibration does not read."""

    batch_size = 1

    def __init__(self, inputs: Any) -> None:
        self._inputs = inputs

    def __iter__(self) -> Any:
        return ((self._inputs[index : index + 1], 0) for index in range(len(self._inputs)))


def main(folder: Path) -> None:
    """See the module."""
    import onnxruntime
    from neural_compressor import PostTrainingQuantConfig, quantization
    from neural_compressor.config import AccuracyCriterion, TuningCriterion

    with np.load(folder / "data.npz") as stored:
        calibration, inputs, labels = stored["calibration"], stored["inputs"], stored["labels"]

    def accuracy(model: Any) -> float:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        made = [session.run(None, {name: inputs[i : i + 1]})[0] for i in range(len(inputs))]
        return float((np.concatenate(made).argmax(axis=1) == labels).mean())

    config = PostTrainingQuantConfig(
        approach="static",
        quant_level=1,
        calibration_sampling_size=[len(calibration)],
        tuning_criterion=TuningCriterion(max_trials=MOST_TRIALS),
        accuracy_criterion=AccuracyCriterion(tolerable_loss=ALLOWED_LOSS),
    )
    made = quantization.fit(
        str(folder / "model.onnx"), config, calib_dataloader=Loader(calibration), eval_func=accuracy
    )
    if made is None:
        raise SystemExit(f"no configuration of {MOST_TRIALS} loses at most {ALLOWED_LOSS:.1%} of the accuracy")
    made.save(str(folder / "made.onnx"))


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    main(Path(sys.argv[1]))
