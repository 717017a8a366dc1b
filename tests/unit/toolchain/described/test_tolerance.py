import numpy as np
import pytest

from edgeloop.contracts.errors import Refused
from edgeloop.contracts.manifest import Precision
from edgeloop.contracts.output import (
    Activation,
    Anomaly,
    Classification,
    Corners,
    Detection,
    Distance,
    Embedding,
    ErrorKind,
    Output,
    PlainBoxes,
    Regression,
)
from edgeloop.toolchain.described.tolerance import tolerances
from edgeloop.toolchain.draft import TOLERANCE

DECODE = PlainBoxes(corners=Corners.XYXY, normalized=False)
PROBABILITIES = Classification(scores="s", activation=Activation.SOFTMAX)
BOXES = Detection(boxes="b", scores="s", activation=Activation.NONE, decode=DECODE, threshold=0.5, iou_threshold=0.5)
VALUES = Regression(value="v", unit=("C",), agree_within=0.5)
ERRORS = Anomaly(reconstruction="r", error=ErrorKind.MEAN_SQUARED, threshold=0.2)
VECTORS = Embedding(vector="v", distance=Distance.COSINE, threshold=0.4)


@pytest.mark.parametrize(
    ("output", "lowest", "highest", "span"),
    [
        (PROBABILITIES, 0.1, 0.7, 1.0),  # probabilities, however alike: as the toolchain's own
        (PROBABILITIES, -30.0, 20.0, 50.0),  # raw scores
        (BOXES, 0.0, 320.0, 320.0),  # pixels
        (BOXES, -0.2, 0.3, 1.0),
        (VALUES, 290.0, 310.0, 20.0),  # temperatures in kelvins: their spread counts, not their size
        (VALUES, 0.001, 0.003, 0.002),
        (ERRORS, 0.01, 0.05, 0.2),  # all normal: the threshold is the scale
        (ERRORS, 0.01, 0.81, 0.8),
        (VECTORS, -0.1, 0.15, 0.25),
    ],
)
def test_errors_are_shares_of_the_answers_span(output: Output, lowest: float, highest: float, span: float) -> None:
    answers = np.linspace(lowest, highest, 40, dtype=np.float32).reshape(20, 2)
    made = tolerances(output, answers)
    assert set(made) == set(TOLERANCE)
    for precision, plain in TOLERANCE.items():
        assert made[precision].max_abs_error == pytest.approx(plain.max_abs_error * span, rel=1e-4)
        assert made[precision].mean_abs_error == pytest.approx(plain.mean_abs_error * span, rel=1e-4)
        assert made[precision].min_agreement == plain.min_agreement


def test_probabilities_have_the_tolerances_that_the_toolchain_has() -> None:
    answers = np.random.default_rng(0).dirichlet(np.ones(3), 20).astype(np.float32)
    assert tolerances(PROBABILITIES, answers)[Precision.INT8] == TOLERANCE[Precision.INT8]


def test_reference_with_one_answer_for_all_is_refused() -> None:
    with pytest.raises(Refused, match="same answer for all 20 golden inputs"):
        tolerances(VALUES, np.full((20, 2), 3.0, np.float32))
