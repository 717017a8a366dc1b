"""How far a variant may lie from the reference on the golden samples, for answers of any scale."""

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Refused
from edgeloop.contracts.manifest import Precision, Tolerance
from edgeloop.contracts.output import Anomaly, Classification, Detection, Output, Segmentation
from edgeloop.toolchain.draft import TOLERANCE


def tolerances(output: Output, answers: NDArray[np.float32]) -> dict[Precision, Tolerance]:
    """Those of `draft.TOLERANCE`, which are for probabilities, with errors as shares of the answers' span.

    answers: (count, K), the reference's (`Golden.outputs`). The span is their largest number less their smallest. It
    counts as 1 at least where scores are among them (classification, detection, segmentation), and as the threshold
    at least for an anomaly. The share of samples with the same decision is not scaled. Raises Refused if the
    reference gives one answer to all samples: replaying them would prove nothing.
    """
    if (answers == answers[0]).all():
        raise Refused(
            f"the reference gives the same answer for all {len(answers)} golden inputs; they would not tell a sound "
            "variant from a broken one. Give inputs that differ, or look whether [[preprocess]] is that of this model"
        )
    span = max(float(np.ptp(answers)), _least_span(output))
    return {precision: _scaled(tolerance, span) for precision, tolerance in TOLERANCE.items()}


def _least_span(output: Output) -> float:
    if isinstance(output, Anomaly):
        return output.threshold
    return 1.0 if isinstance(output, Classification | Detection | Segmentation) else 0.0


def _scaled(tolerance: Tolerance, span: float) -> Tolerance:
    return Tolerance(
        max_abs_error=tolerance.max_abs_error * span,
        mean_abs_error=tolerance.mean_abs_error * span,
        min_agreement=tolerance.min_agreement,
    )
