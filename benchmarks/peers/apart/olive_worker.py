"""Olive in a Python of its own: static int8 of an ONNX model, its settings searched by Olive itself.

Run as `python olive_worker.py FOLDER`: reads model.onnx and data.npz (calibration, inputs, labels), writes made.onnx.
Imports nothing of ours: its environment holds Olive and what that needs.

Its documented way: a workflow with the pass OnnxStaticQuantization, which optimizes the graph first. Olive tries all of
its settings (weights per tensor or per channel, of 8 or 7 bits, calibration by min-max, entropy or percentile) and
keeps the one with the highest accuracy on data that is neither trained on nor judged with. Activations are uint8 and
weights int8, as ONNX Runtime advises for CPUs. The pass stands alone: in Olive 0.13 a search fails at each point that
finds an earlier pass in its cache ("FootprintNode" object has no field "model_config").
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = "EDGELOOP_OLIVE_FOLDER"
MOST_TRIALS = 24


class Samples:
    """Samples as Olive's data loaders take them: (inputs by name, label)."""

    def __init__(self, name: str, inputs: Any, labels: Any) -> None:
        self._name, self._inputs, self._labels = name, inputs, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Any:
        return {self._name: self._inputs[index]}, self._labels[index]


def register() -> None:
    """Tell Olive about the data, and that the highest score is the answer; it imports this file as its user script."""
    import onnx
    from olive.data.registry import Registry

    @Registry.register_dataset()  # type: ignore[untyped-decorator]  # Olive has no types
    def bench_samples(inputs: str, labels: str | None = None, **_settings: Any) -> Samples:
        folder = Path(os.environ[FOLDER])
        name = onnx.load(folder / "model.onnx", load_external_data=False).graph.input[0].name
        with np.load(folder / "data.npz") as stored:
            samples = stored[inputs]
            return Samples(name, samples, stored[labels] if labels else np.zeros(len(samples), np.int64))

    @Registry.register_post_process()  # type: ignore[untyped-decorator]  # Olive has no types
    def bench_answer(scores: Any, **_settings: Any) -> Any:
        return scores.argmax(dim=-1)


def workflow(folder: Path, classes: int) -> dict[str, Any]:
    """Olive's configuration."""
    return {
        "input_model": {"type": "OnnxModel", "config": {"model_path": str(folder / "model.onnx")}},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "config": {"accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}]},
            }
        },
        "data_configs": [
            _data("calibration", {"inputs": "calibration"}),
            _data("tuning", {"inputs": "inputs", "labels": "labels"}),
        ],
        "evaluators": {
            "right": {
                "type": "OnnxEvaluator",
                "metrics": [
                    {
                        "name": "right",
                        "type": "accuracy",
                        "data_config": "tuning",
                        "sub_types": [
                            {
                                "name": "accuracy_score",
                                "priority": 1,
                                "metric_config": {"task": "multiclass", "num_classes": classes},
                            }
                        ],
                    }
                ],
            }
        },
        "passes": {
            "quantize": {
                "type": "OnnxStaticQuantization",
                "data_config": "calibration",
                "quant_format": "QDQ",
                "quant_preprocess": True,
                "per_channel": "SEARCHABLE_VALUES",
                "reduce_range": "SEARCHABLE_VALUES",
                "precision": "int8",
                "activation_type": "uint8",
                "calibrate_method": "SEARCHABLE_VALUES",
            },
        },
        "search_strategy": {
            "execution_order": "joint",
            "sampler": "sequential",
            "sampler_config": {"max_samples": MOST_TRIALS},
            "output_model_num": 1,
        },
        "evaluator": "right",
        "host": "here",
        "target": "here",
        "cache_dir": str(folder / "cache"),
        "output_dir": str(folder / "out"),
    }


def main(folder: Path) -> None:
    """See the module."""
    os.environ[FOLDER] = str(folder)
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    import olive

    with np.load(folder / "data.npz") as stored:
        classes = int(stored["labels"].max()) + 1
    made = olive.run(workflow(folder, classes)).get_best_candidate()
    if made is None:
        raise SystemExit("Olive's search ended without a model")
    shutil.copyfile(made.model_path, folder / "made.onnx")


def _data(name: str, samples: dict[str, str]) -> dict[str, Any]:
    return {
        "name": name,
        "user_script": __file__,
        "load_dataset_config": {"type": "bench_samples", "params": samples},
        "post_process_data_config": {"type": "bench_answer"},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "dataloader_config": {"type": "default_dataloader", "params": {"batch_size": 1}},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
else:
    register()
