import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Refused
from edgeloop.toolchain.source.open import open_model
from edgeloop.toolchain.source.sklearn import load_sklearn, wrap_sklearn

pytest.importorskip("skops")

from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

RNG = np.random.default_rng(3)
SAMPLES = RNG.normal(size=(60, 4)).astype(np.float32)
TWO = (SAMPLES[:, 0] > 0).astype(int)


class Doubler(TransformerMixin, BaseEstimator):  # type: ignore[misc, unused-ignore]
    """A step of a person's own."""

    def fit(self, inputs: Any, labels: Any = None) -> "Doubler":
        return self

    def transform(self, inputs: Any) -> Any:
        return inputs * 2


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return make_pipeline(StandardScaler(), SVC()).fit(SAMPLES, TWO)


@pytest.fixture
def skops_path(pipeline: Any, tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.skops"
    path.write_bytes(wrap_sklearn(pipeline).data)
    return path


def test_file_answers_like_the_pipeline(pipeline: Any, skops_path: Path) -> None:
    model = open_model(skops_path)
    assert np.allclose(model.scores(SAMPLES)[:, 1], pipeline.decision_function(SAMPLES), atol=1e-6)  # float32 of it


def test_decision_of_two_classes_has_both_signs(pipeline: Any) -> None:
    scores = wrap_sklearn(pipeline).scores(SAMPLES)
    assert np.array_equal(scores[:, 0], -scores[:, 1])
    assert np.array_equal(scores.argmax(axis=1), pipeline.predict(SAMPLES))


@pytest.mark.parametrize(
    ("estimator", "output", "width"),
    [(LogisticRegression(), "probabilities", 2), (SVC(), "scores", 2), (LinearRegression(), "prediction", 1)],
)
def test_output_is_called_by_what_it_is(estimator: Any, output: str, width: int) -> None:
    spec = wrap_sklearn(estimator.fit(SAMPLES, TWO)).only_output()
    assert (spec.name, spec.shape) == (output, (1, width))


def test_input_is_as_wide_as_what_it_was_fitted_on(pipeline: Any) -> None:
    assert wrap_sklearn(pipeline).only_input().shape == (1, 4)


def test_pipeline_with_code_of_its_own_is_refused_by_name(tmp_path: Path) -> None:
    from skops import io

    own = make_pipeline(Doubler(), LogisticRegression()).fit(SAMPLES, TWO)
    io.dump(own, tmp_path / "own.skops")
    with pytest.raises(Refused, match="Doubler"):
        load_sklearn(tmp_path / "own.skops")


@pytest.mark.parametrize("name", ["model.pkl", "model.joblib"])
def test_pickle_is_not_opened_unless_a_person_says_so(tmp_path: Path, name: str) -> None:
    marker = tmp_path / "ran"
    (tmp_path / name).write_bytes(pickle.dumps(_Touch(marker)))
    with pytest.raises(Refused, match="--trust-pickle"):
        open_model(tmp_path / name)
    assert not marker.exists()


def test_trusted_pickle_is_taken(pipeline: Any, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(pipeline))
    model = open_model(tmp_path / "model.pkl", trust_pickle=True)
    assert np.array_equal(model.scores(SAMPLES), wrap_sklearn(pipeline).scores(SAMPLES))


@pytest.mark.parametrize("name", ["model.skops", "model.pkl"])
def test_damaged_file_is_corrupt(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(Corrupt):
        load_sklearn(tmp_path / name, trust_pickle=True)


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_sklearn(tmp_path / "model.skops")


@pytest.mark.parametrize("thing", [LogisticRegression(), {"weights": 3}])
def test_what_is_not_fitted_is_refused(thing: Any) -> None:
    with pytest.raises(InvalidInput, match="fitted"):
        wrap_sklearn(thing)


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.where,)
