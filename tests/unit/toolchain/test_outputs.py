import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.data.dataset import UNLABELLED
from edgeloop.toolchain.outputs import (
    classify,
    match_outputs,
    output_errors,
    require_finite,
    require_same_inputs,
)
from edgeloop.toolchain.source.model import Feeds, Format, Model


def _nothing(_feeds: Feeds) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    return {}


def _model(name: str, outputs: dict[str, tuple[int, ...]], inputs: dict[str, tuple[int, ...]] | None = None) -> Model:
    return Model(
        name=name,
        format=Format.FUNCTION,
        native=None,
        inputs=tuple(TensorSpec(key, shape, "float32") for key, shape in (inputs or {"x": (1, 4)}).items()),
        outputs=tuple(TensorSpec(key, shape, "float32") for key, shape in outputs.items()),
        run=_nothing,
        data=b"",
    )


def test_several_outputs_are_matched_by_name_whatever_their_order() -> None:
    pairs = match_outputs(_model("a", {"p": (1, 2), "q": (1, 3)}), _model("b", {"q": (1, 3), "p": (1, 2)}))
    assert {(pair.candidate, pair.against) for pair in pairs} == {("p", "p"), ("q", "q")}


def test_single_outputs_are_matched_whatever_they_are_called() -> None:
    (pair,) = match_outputs(_model("a", {"Identity": (1, 2)}), _model("b", {"logits": (1, 2)}))
    assert (pair.candidate, pair.against) == ("Identity", "logits")


def test_features_that_only_one_of_them_offers_are_left_out() -> None:
    (pair,) = match_outputs(_model("a", {"Identity": (1, 2)}), _model("b", {"logits": (1, 2), "features": (1, 9)}))
    assert (pair.candidate, pair.against) == ("Identity", "logits")


def test_other_names_are_refused_with_both_lists() -> None:
    with pytest.raises(Refused, match="a gives p, r, b gives p, q: outputs are matched by name, never by position"):
        match_outputs(_model("a", {"p": (1, 2), "r": (1, 3)}), _model("b", {"p": (1, 2), "q": (1, 3)}))


def test_outputs_of_other_shapes_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"output of a 'p' is \(1, 2\), that of b 'q' is \(1, 3\)"):
        match_outputs(_model("a", {"p": (1, 2)}), _model("b", {"q": (1, 3)}))


def test_inputs_of_other_shapes_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"input of a 'x' is \(1, 5\), that of b 'x' is \(1, 4\)"):
        require_same_inputs(_model("a", {"p": (1, 2)}, {"x": (1, 5)}), _model("b", {"p": (1, 2)}))


def test_several_inputs_must_bear_the_same_names() -> None:
    one, other = {"x": (1, 4), "y": (1, 4)}, {"x": (1, 4), "z": (1, 4)}
    with pytest.raises(InvalidInput, match="inputs of models with several are matched by name"):
        require_same_inputs(_model("a", {"p": (1, 2)}, one), _model("b", {"p": (1, 2)}, other))
    require_same_inputs(_model("a", {"p": (1, 2)}, one), _model("b", {"p": (1, 2)}, dict(reversed(one.items()))))


def test_another_number_of_inputs_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"a takes x \(1, 4\), y \(1, 4\), b takes x \(1, 4\)"):
        require_same_inputs(
            _model("a", {"p": (1, 2)}, {"x": (1, 4), "y": (1, 4)}), _model("b", {"p": (1, 2)}, {"x": (1, 4)})
        )


def test_errors_are_absolute_differences_over_all_samples() -> None:
    pairs = match_outputs(_model("a", {"p": (1, 2)}), _model("b", {"q": (1, 2)}))
    made = {"p": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)}
    wanted = {"q": np.array([[1.0, 2.5], [-3.0, 4.0]], np.float32)}
    (found,) = output_errors(pairs, made, wanted)
    assert (found.max_abs_error, found.mean_abs_error, found.largest) == (6.0, (0.5 + 6.0) / 4, 4.0)


def test_integer_outputs_do_not_wrap_around() -> None:
    pairs = match_outputs(_model("a", {"p": (1, 1)}), _model("b", {"p": (1, 1)}))
    (found,) = output_errors(pairs, {"p": np.array([[0]], np.uint8)}, {"p": np.array([[255]], np.uint8)})
    assert found.max_abs_error == 255


def test_classes_are_compared_by_label_and_by_each_other() -> None:
    names = ("a", "b", "c")
    scores = np.eye(3, dtype=np.float32)[[0, 1, 1, 2, 0]]
    against = np.eye(3, dtype=np.float32)[[0, 1, 2, 2, 1]]
    labels = np.array([0, 1, 2, 2, UNLABELLED])
    found = classify(scores, against, labels, names)
    assert (found.labelled, found.agreement, found.accuracy, found.accuracy_against) == (4, 3 / 5, 3 / 4, 1.0)
    assert found.drop_points == 25.0
    assert [(one.label, one.samples, one.accuracy) for one in found.labels] == [("a", 1, 1), ("b", 1, 1), ("c", 2, 0.5)]
    assert [one.label for one in found.worse] == ["c"]


def test_a_label_that_does_not_occur_is_left_out() -> None:
    found = classify(np.eye(3)[[0]], np.eye(3)[[0]], np.array([0]), ("a", "b", "c"))
    assert [one.label for one in found.labels] == ["a"]


def test_without_labels_only_agreement_is_told() -> None:
    found = classify(np.eye(2)[[0, 1]], np.eye(2)[[0, 0]], np.full(2, UNLABELLED), ("a", "b"))
    assert (found.agreement, found.accuracy, found.drop_points, found.labels) == (0.5, None, None, ())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_answers_that_are_no_numbers_are_refused(bad: float) -> None:
    model = _model("net", {"p": (1, 2)})
    with pytest.raises(Refused, match="net: output 'p' holds NaN or infinity for 1 of 2 samples"):
        require_finite(model, {"p": np.array([[0.0, bad], [0.0, 1.0]])})
