import resource
from pathlib import Path

import numpy as np
import pytest

from builders import onnx_model, quadrant_images, quadrant_weights
from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.footprint import Job, ModelFile, take_timings


def _file(folder: Path, *, inputs: int = 1) -> ModelFile:
    model, images = folder / "model.onnx", folder / "images.npy"
    model.write_bytes(onnx_model(quadrant_weights()))
    images.write_bytes(to_npy(quadrant_images(3)[..., np.newaxis].astype(np.float32)))
    return ModelFile(engine=EngineName.ONNXRUNTIME, path=str(model), inputs=(str(images),) * inputs)


def test_each_model_of_a_job_is_timed_as_often(tmp_path: Path) -> None:
    found = take_timings(Job(models=(_file(tmp_path), _file(tmp_path)), runs=25))
    assert [one.runs for one in found.models] == [25, 25]
    assert all(0 < one.latency_p50_ms <= one.latency_p99_ms for one in found.models)


def test_peak_memory_is_no_more_than_the_process_took(tmp_path: Path) -> None:
    found = take_timings(Job(models=(_file(tmp_path),), runs=5))
    # The kernel rounds both to pages, and may count the peak of before exec in one of them only.
    assert 0 < found.peak_memory_bytes <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 2**22


def test_job_with_another_number_of_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has the inputs image; the job gives 2 arrays"):
        take_timings(Job(models=(_file(tmp_path, inputs=2),)))
