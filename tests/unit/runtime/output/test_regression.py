"""Values against the arithmetic by hand."""

from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.output import Regression
from edgeloop.runtime.output.regression import RegressionHead
from outputs import manifest_of

LABELS = ("temperature", "pressure")


def _head(**fields: Any) -> RegressionHead:
    output = Regression(**({"value": "value", "unit": ("K", "Pa"), "agree_within": 0.5} | fields))
    return RegressionHead(manifest_of(output, LABELS), output)


def test_values_are_scaled_and_named() -> None:
    answer = _head(factor=2.0, offset=-1.0).answer((np.array([[3.0, -0.25]], np.float32),), None, None)
    assert [(one.label, one.score) for one in answer.top] == [("temperature", 5.0), ("pressure", -1.5)]
    assert (answer.label, answer.score, answer.margin) == (None, 5.0, 1.0)


def test_basis_is_the_scaled_values() -> None:
    basis = _head(factor=2.0, offset=-1.0).basis((np.array([[3.0, -0.25]], np.float32),), None)
    assert (basis.tolist(), basis.dtype) == ([5.0, -1.5], np.float32)


def test_answers_agree_within_the_stated_difference() -> None:
    wanted = np.array([[1, 2], [1, 2], [1, 2]], np.float32)
    made = np.array([[1.5, 1.5], [1.5, 2.75], [np.nan, 2]], np.float32)
    assert _head().agree(made, wanted).tolist() == [True, False, False]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_values_that_are_not_finite_are_refused_also_after_scaling(bad: float) -> None:
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        _head(factor=100.0).answer((np.array([[bad, 0]], np.float32),), None, None)


def test_a_tensor_of_another_width_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"has 2 labels, but its tensor of values 'value' is \(1, 3\)"):
        _head().check(((1, 3),))


def test_a_unit_is_wanted_for_each_label() -> None:
    with pytest.raises(InvalidInput, match="2 labels and 1 units"):
        _head(unit=("K",))
