import numpy as np
import pytest

from builders import Weights, onnx_model, quadrant_weights
from edgeloop.contracts.errors import Refused
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.toolchain.bench import Subject, engine_of, peak_memory_bytes, time_by_turns
from edgeloop.toolchain.profiles.probe import Probe, probe_model
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Format, Model


def _subject(model: Model) -> Subject:
    random = np.random.default_rng(0)
    return Subject(model, {spec.name: random.random((3, *spec.shape[1:]), np.float32) for spec in model.inputs})


def _onnx(weights: Weights) -> Model:
    return wrap_runnable(onnx_model(weights), Format.ONNX, name="tiny.onnx")


def _litert(probe: Probe, precision: Precision = Precision.FLOAT32) -> Model:
    return wrap_runnable(probe_model(probe, precision), Format.LITERT, name=f"{probe.name}.tflite")


def test_models_of_several_engines_are_timed_in_one_process() -> None:
    subjects = [_subject(_onnx(quadrant_weights())), _subject(_litert(Probe(8, 4, 1), Precision.INT8))]
    timings = time_by_turns(subjects, runs=30)
    assert [timing.runs for timing in timings] == [30, 30]
    assert all(0 < timing.latency_p50_ms <= timing.latency_p99_ms for timing in timings)


def test_time_that_is_up_ends_the_runs_but_not_before_twenty() -> None:
    (timing,) = time_by_turns([_subject(_litert(Probe(8, 4, 1)))], runs=1_000_000, seconds=0.0)
    assert timing.runs == 20


def test_peak_memory_is_of_the_model_and_its_engine_alone() -> None:
    ballast = np.ones(75_000_000)
    # numpy, OpenCV and one engine: 65 MB measured.
    assert 10_000_000 < peak_memory_bytes(_subject(_litert(Probe(8, 4, 1)))) < ballast.nbytes // 2


def test_model_that_no_engine_runs_is_refused() -> None:
    model = _onnx(quadrant_weights())
    other = Model("f", Format.FUNCTION, None, model.inputs, model.outputs, model.run, b"")
    with pytest.raises(Refused, match="f is a function model; no engine runs that as it is"):
        peak_memory_bytes(_subject(other))


def test_model_that_does_not_run_there_is_refused_with_what_was_said() -> None:
    model = _onnx(quadrant_weights())
    broken = Model("broken.onnx", Format.ONNX, None, model.inputs, model.outputs, model.run, b"nothing")
    with pytest.raises(Refused, match=r"broken\.onnx: does not run in a clean process: (.|\n)*cannot load this model"):
        time_by_turns([_subject(broken)])


def test_engines_are_those_of_the_formats() -> None:
    model = _litert(Probe(8, 4, 1))
    assert engine_of(model) is EngineName.LITERT
    assert engine_of(_onnx(quadrant_weights())) is EngineName.ONNXRUNTIME
    header = Model("m", Format.MCU, model.data, model.inputs, model.outputs, model.run, b"// a C header")
    assert engine_of(header) is None
