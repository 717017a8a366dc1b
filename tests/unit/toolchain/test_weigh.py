import numpy as np
import pytest

from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.bench import Subject
from edgeloop.toolchain.convert.mcu import to_mcu
from edgeloop.toolchain.profiles.known import KNOWN
from edgeloop.toolchain.profiles.open import open_profile
from edgeloop.toolchain.profiles.probe import Probe, probe_model
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.keras import wrap_keras
from edgeloop.toolchain.source.model import Format, Model
from edgeloop.toolchain.weigh import measure_all, on_device, weigh


def _probe(precision: Precision = Precision.INT8) -> Model:
    return wrap_runnable(probe_model(Probe(8, 4, 1), precision), Format.LITERT, name="probe.tflite")


def _subject(model: Model) -> Subject:
    return Subject(model, {spec.name: np.zeros((2, *spec.shape[1:]), np.float32) for spec in model.inputs})


def test_keras_model_is_timed_as_the_litert_file_that_it_becomes() -> None:
    keras = import_keras()
    taken = keras.Input((4,), name="x")
    model = wrap_keras(keras.Model(taken, keras.layers.Dense(3)(taken)), name="net.keras")
    (found,) = measure_all([_subject(model)])
    assert (found.format, found.multiply_adds, found.precision) == ("keras", 12, None)
    assert found.latency_p50_ms is not None
    assert found.peak_memory_bytes is not None
    # TensorFlow alone takes more than 300 MB; LiteRT in a process of its own 65 MB.
    assert found.peak_memory_bytes < 200_000_000


def test_model_that_no_engine_runs_is_weighed_but_not_timed() -> None:
    probe = _probe()
    function = Model("f", Format.FUNCTION, None, probe.inputs, probe.outputs, probe.run, b"")
    first, second = measure_all([_subject(function), _subject(probe)])
    assert (first.name, first.latency_p50_ms, first.multiply_adds) == ("f", None, None)
    assert (second.name, second.precision) == ("probe.tflite", Precision.INT8)
    assert second.latency_p50_ms is not None


def test_header_for_a_microcontroller_weighs_what_its_array_holds() -> None:
    probe = _probe()
    header, _ = to_mcu(probe, name="probe")
    found = weigh(header)
    assert (found.multiply_adds, found.precision) == (weigh(probe).multiply_adds, Precision.INT8)
    assert on_device(found, header, KNOWN["esp32-s3"]).misfits == ()


def test_float_model_does_not_fit_what_computes_in_integers() -> None:
    probe = _probe(Precision.FLOAT32)
    found = on_device(weigh(probe), probe, KNOWN["coral-tpu"])
    assert found.misfits == ("it computes in int8, not in float32",)
    assert found.latency.latency_ms is None


def test_this_machine_estimates_nothing_for_a_model_that_was_not_timed() -> None:
    probe = _probe()
    found = on_device(weigh(probe), probe, open_profile("this"))
    assert (found.misfits, found.latency.latency_ms) == ((), None)
    assert found.latency.method.startswith(f"unknown: no trusted figure for {EngineName.LITERT} {Precision.INT8} on")


@pytest.mark.parametrize("name", [name for name, profile in KNOWN.items() if not profile.micro])
def test_arena_is_told_of_microcontrollers_only(name: str) -> None:
    probe = _probe()
    assert on_device(weigh(probe), probe, KNOWN[name]).arena_bytes is None
