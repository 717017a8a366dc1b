"""A function as a Model: asked by name, and held to what it declares."""

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.source.function import wrap_function

ONE, PAIR = TensorSpec("one", (1, 1), "float32"), TensorSpec("pair", (1, 2), "float32")


def test_inputs_come_in_order_and_outputs_by_name() -> None:
    model = wrap_function(lambda one, pair: {"pair": pair - one, "one": one * 2}, [ONE, PAIR], [ONE, PAIR], "both")
    made = model.run({"pair": np.array([[3, 4]]), "one": np.array([[1]])})
    assert made["pair"].tolist() == [[2.0, 3.0]]
    assert made["one"].tolist() == [[2.0]]
    assert (model.data, model.name) == (b"", "both")


def test_answer_of_another_shape_is_refused() -> None:
    model = wrap_function(lambda x: x, [PAIR], [ONE], "wide")
    with pytest.raises(InvalidInput, match=r"wide answered 'one' as \(3, 2\), expected \(3, 1\)"):
        model.scores(np.zeros((3, 2)))


def test_missing_output_is_refused_by_name() -> None:
    model = wrap_function(lambda x: {"other": x}, [PAIR], [ONE], "forgets")
    with pytest.raises(InvalidInput, match="'one' is missing"):
        model.scores(np.zeros((3, 2)))


def test_one_array_for_two_outputs_is_refused() -> None:
    model = wrap_function(lambda x: x, [PAIR], [ONE, PAIR], "short")
    with pytest.raises(InvalidInput, match="2 outputs"):
        model.run({"pair": np.zeros((3, 2))})


def test_function_without_outputs_is_refused() -> None:
    with pytest.raises(InvalidInput, match="0 outputs"):
        wrap_function(lambda x: x, [PAIR], [])
