"""Two models side by side: outputs matched by name, differences sample by sample, and for classifiers the labels.

Neighbours: `check` runs both models and reports what is found here.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.data.dataset import UNLABELLED
from edgeloop.toolchain.source.model import FEATURES, Model

Outputs = Mapping[str, NDArray[Any]]


class OutputPair(msgspec.Struct, frozen=True, kw_only=True):
    """One output of each model that are the same thing, by their names."""

    candidate: str
    against: str


class OutputError(msgspec.Struct, frozen=True, kw_only=True):
    """How far the candidate's output lies from the other's, over all samples and values.

    largest: the largest absolute value that the other one gives, to see the errors against.
    """

    candidate: str
    against: str
    max_abs_error: float
    mean_abs_error: float
    largest: float


class LabelResult(msgspec.Struct, frozen=True, kw_only=True):
    """One class: how many samples bear it, and the share that each model gets right."""

    label: str
    samples: int
    accuracy: float
    accuracy_against: float


class Classified(msgspec.Struct, frozen=True, kw_only=True):
    """Two classifiers over the same samples.

    labelled: samples that bear a label; the accuracies are shares of those, None if there are none. agreement: share
    of all samples on which both choose the same class. drop_points: of accuracy that the candidate loses, negative
    where it gains. labels: the classes that occur, in their order.
    """

    labelled: int
    agreement: float
    accuracy: float | None
    accuracy_against: float | None
    labels: tuple[LabelResult, ...]

    @property
    def drop_points(self) -> float | None:
        """Percentage points of accuracy lost."""
        if self.accuracy is None or self.accuracy_against is None:
            return None
        return 100 * (self.accuracy_against - self.accuracy)

    @property
    def worse(self) -> tuple[LabelResult, ...]:
        """The classes that the candidate gets wrong more often, the worst first."""
        lost = [one for one in self.labels if one.accuracy < one.accuracy_against]
        return tuple(sorted(lost, key=lambda one: one.accuracy - one.accuracy_against))


def match_outputs(candidate: Model, against: Model) -> tuple[OutputPair, ...]:
    """Which outputs are to be alike: by name; with one output each, those two whatever they are called.

    The "features" that one of them offers beside its outputs are left out. Raises Refused naming both lists if names
    differ, InvalidInput if matched outputs have different shapes.
    """
    made, wanted = _by_name(candidate), _by_name(against)
    if set(made) != set(wanted):
        made, wanted = ({name: spec for name, spec in one.items() if name != FEATURES} for one in (made, wanted))
    pairs: tuple[tuple[str, str], ...]
    if len(made) == len(wanted) == 1:
        pairs = ((next(iter(made)), next(iter(wanted))),)
    elif set(made) == set(wanted):
        pairs = tuple((name, name) for name in wanted)
    else:
        raise Refused(
            f"{candidate.name} gives {', '.join(made)}, {against.name} gives {', '.join(wanted)}: outputs are matched "
            "by name, never by position; name them alike when exporting"
        )
    for name, other in pairs:
        _require_same_shape(made[name], wanted[other], f"output of {candidate.name}", f"that of {against.name}")
    return tuple(OutputPair(candidate=name, against=other) for name, other in pairs)


def require_same_inputs(candidate: Model, against: Model) -> None:
    """Raise InvalidInput unless both take the same: names must agree where there are several, shapes always."""
    made, wanted = candidate.inputs, against.inputs
    if len(made) != len(wanted):
        raise InvalidInput(f"{candidate.name} takes {_names(made)}, {against.name} takes {_names(wanted)}")
    if len(made) > 1 and {spec.name for spec in made} != {spec.name for spec in wanted}:
        raise InvalidInput(
            f"{candidate.name} takes {_names(made)}, {against.name} takes {_names(wanted)}: inputs of models with "
            "several are matched by name; name them alike when exporting"
        )
    by_name = {spec.name: spec for spec in wanted}
    for spec in made:
        other = by_name[spec.name] if len(made) > 1 else wanted[0]
        _require_same_shape(spec, other, f"input of {candidate.name}", f"that of {against.name}")


def output_errors(pairs: tuple[OutputPair, ...], made: Outputs, wanted: Outputs) -> tuple[OutputError, ...]:
    """Absolute differences of each pair, over all samples. made, wanted: (N, ...) by output name."""
    errors = []
    for pair in pairs:
        reference = np.asarray(wanted[pair.against], np.float64)
        difference = np.abs(np.asarray(made[pair.candidate], np.float64) - reference)
        errors.append(
            OutputError(
                candidate=pair.candidate,
                against=pair.against,
                max_abs_error=float(difference.max()),
                mean_abs_error=float(difference.mean()),
                largest=float(np.abs(reference).max()),
            )
        )
    return tuple(errors)


def classify(
    scores: NDArray[Any], against: NDArray[Any], labels: NDArray[np.int64], names: tuple[str, ...]
) -> Classified:
    """Compare by the highest score. scores, against: (N, classes). labels: (N,), UNLABELLED where there is none."""
    chosen, expected = scores.argmax(axis=1), against.argmax(axis=1)
    known = labels != UNLABELLED
    right, right_against = (chosen == labels)[known], (expected == labels)[known]
    per_label = tuple(
        LabelResult(
            label=names[index],
            samples=int((labels[known] == index).sum()),
            accuracy=float(right[labels[known] == index].mean()),
            accuracy_against=float(right_against[labels[known] == index].mean()),
        )
        for index in np.unique(labels[known]).tolist()
    )
    return Classified(
        labelled=int(known.sum()),
        agreement=float((chosen == expected).mean()),
        accuracy=float(right.mean()) if known.any() else None,
        accuracy_against=float(right_against.mean()) if known.any() else None,
        labels=per_label,
    )


def require_finite(model: Model, outputs: Outputs) -> None:
    """Raise Refused if a model answers NaN or infinity, with how many samples of which output."""
    for name, values in outputs.items():
        good = np.isfinite(np.asarray(values, np.float64)).reshape(len(values), -1).all(axis=1)
        if not good.all():
            raise Refused(
                f"{model.name}: output {name!r} holds NaN or infinity for {int((~good).sum())} of {len(values)} samples"
            )


def _by_name(model: Model) -> dict[str, TensorSpec]:
    return {spec.name: spec for spec in model.outputs}


def _names(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {tuple(spec.shape)}" for spec in specs)


def _require_same_shape(spec: TensorSpec, other: TensorSpec, what: str, whose: str) -> None:
    if tuple(spec.shape) != tuple(other.shape):
        raise InvalidInput(
            f"{what} {spec.name!r} is {tuple(spec.shape)}, {whose} {other.name!r} is {tuple(other.shape)}; "
            "they must be alike to be compared"
        )
