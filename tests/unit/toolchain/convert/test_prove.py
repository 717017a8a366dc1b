from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import Refused
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.convert.prove import INTEGER_MAX, PROOF_SAMPLES, proof_feeds, prove
from edgeloop.toolchain.source.model import Feeds, Format, Model

FEEDS = {"x": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)}


def _model(*, error: float = 0.0, scale: float = 0.0, gain: float = 1.0, names: tuple[str, str] = ("a", "b")) -> Model:
    """Two outputs, the inputs times `gain` and their negatives; the first one off by `error`."""

    def run(feeds: Feeds) -> dict[str, NDArray[np.float32]]:
        x = np.asarray(feeds["x"], np.float32) * np.float32(gain)
        return {names[0]: x + np.float32(error), names[1]: -x}

    dtype = "int8" if scale else "float32"
    outputs = tuple(TensorSpec(name, (1, 3), dtype, scale) for name in names)
    return Model(
        name="m", format=Format.FUNCTION, native=None, inputs=(TensorSpec("x", (1, 3), "float32"),), outputs=outputs,
        run=run, data=b"m",
    )  # fmt: skip


def test_errors_are_those_of_each_output() -> None:
    first, second = prove(_model(), _model(error=5e-5), FEEDS)
    assert (first.name, second.name, second.max_abs_error) == ("a", "b", 0.0)
    assert first.max_abs_error == pytest.approx(5e-5, rel=1e-2)  # float32 spacing at 1 is 1e-7
    assert first.mean_abs_error == pytest.approx(5e-5, rel=1e-2)


def test_error_above_the_tolerance_is_refused_with_the_numbers() -> None:
    with pytest.raises(Refused, match=r"'a' is off by up to 0\.0002.*allowed 0\.0001"):
        prove(_model(), _model(error=2e-4), FEEDS)


def test_tolerance_grows_with_the_output() -> None:
    first, _ = prove(_model(gain=100), _model(gain=100, error=5e-3), FEEDS)
    assert first.allowed == pytest.approx(1e-2)


def test_outputs_are_matched_by_name_not_by_position() -> None:
    with pytest.raises(Refused, match="is off by"):
        prove(_model(), _model(names=("b", "a")), FEEDS)


def test_lost_output_is_named() -> None:
    with pytest.raises(Refused, match="lost the output 'b'"):
        prove(_model(), _model(names=("a", "c")), FEEDS)


def test_nan_does_not_pass() -> None:
    with pytest.raises(Refused, match="converted model is NaN"):
        prove(_model(), _model(error=float("nan")), FEEDS)


def test_integer_output_may_round_otherwise_but_not_answer_otherwise() -> None:
    step = 0.01
    first, _ = prove(_model(scale=step), _model(scale=step, error=step), FEEDS)
    assert first.allowed == pytest.approx(INTEGER_MAX * 255 * step)
    with pytest.raises(Refused, match="is off by"):
        prove(_model(scale=step), _model(scale=step, error=10 * step), FEEDS)


def test_random_inputs_are_seeded_and_in_range() -> None:
    feeds, real = proof_feeds(_model(), None, value_range=(-2.0, 3.0), seed=5)
    again, _ = proof_feeds(_model(), None, value_range=(-2.0, 3.0), seed=5)
    x = feeds["x"]
    assert (x.shape, real, np.array_equal(x, again["x"])) == ((PROOF_SAMPLES, 3), False, True)
    assert -2 <= x.min() < -1.5
    assert 2.5 < x.max() <= 3


def test_random_inputs_of_a_quantized_model_span_what_it_declares() -> None:
    model = replace(_model(), inputs=(TensorSpec("x", (1, 3), "int8", 0.5, -28),))
    feeds, _ = proof_feeds(model, None, value_range=(0.0, 1.0), seed=0)
    assert -50 <= feeds["x"].min() < -40  # (-128 + 28) * 0.5
    assert 67 < feeds["x"].max() <= 77.5  # (127 + 28) * 0.5
