from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
from edgeloop.toolchain.source.sklearn import wrap_sklearn
from edgeloop.toolchain.targets import Target

pytest.importorskip("skl2onnx")

from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC, OneClassSVM

RNG = np.random.default_rng(2)
SAMPLES = (3 * RNG.normal(size=(80, 4))).astype(np.float32)
THREE = (SAMPLES[:, 0] > 0).astype(int) + (SAMPLES[:, 1] > 1)
TWO = (SAMPLES[:, 0] > 0).astype(int)


@pytest.mark.parametrize("labels", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize(
    "estimator",
    [SVC(), LinearSVC(), LogisticRegression(), RidgeClassifier(), RandomForestClassifier(5), KNeighborsClassifier()],
    ids=lambda one: type(one).__name__,
)
def test_pipeline_with_its_scaler_keeps_its_scores(estimator: Any, labels: Any) -> None:
    source = wrap_sklearn(make_pipeline(StandardScaler(), estimator).fit(SAMPLES, labels), name="pipe.skops")
    made, _ = convert(source, ConvertRecipe(to=Target.ONNX, input_range=(-6.0, 6.0)))
    assert [spec.name for spec in made.outputs] == [source.only_output().name]
    # Computed in float64 there and float32 here.
    assert np.allclose(made.scores(SAMPLES), source.scores(SAMPLES), atol=1e-4)


@pytest.mark.parametrize("estimator", [Ridge(), SVR()], ids=lambda one: type(one).__name__)
def test_regression_keeps_its_values(estimator: Any) -> None:
    source = wrap_sklearn(estimator.fit(SAMPLES, SAMPLES[:, 0] * 2))
    made, _ = convert(source, ConvertRecipe(to=Target.ONNX))
    assert np.allclose(made.scores(SAMPLES), source.scores(SAMPLES), atol=1e-4)  # float64 there, float32 here


@pytest.mark.parametrize("estimator", [OneClassSVM(), IsolationForest(n_estimators=5)], ids=["svm", "forest"])
def test_outlier_detector_keeps_its_one_score(estimator: Any) -> None:
    source = wrap_sklearn(estimator.fit(SAMPLES))
    made, _ = convert(source, ConvertRecipe(to=Target.ONNX))
    assert made.only_output().shape == (1, 1)
    assert np.allclose(made.scores(SAMPLES), source.scores(SAMPLES), atol=1e-4)  # float64 there, float32 here


def test_step_without_a_converter_is_named() -> None:
    pipe = make_pipeline(FunctionTransformer(np.sin), LogisticRegression()).fit(SAMPLES, TWO)
    with pytest.raises(Refused, match="FunctionTransformer"):
        convert(wrap_sklearn(pipe), ConvertRecipe(to=Target.ONNX))


def test_operator_that_openvino_lacks_is_named() -> None:
    source = wrap_sklearn(SVC().fit(SAMPLES, THREE))
    with pytest.raises(Refused, match="SVMClassifier"):
        convert(source, ConvertRecipe(to=Target.OPENVINO))


def test_litert_is_no_way_and_says_why() -> None:
    source = wrap_sklearn(SVC().fit(SAMPLES, THREE))
    with pytest.raises(InvalidInput, match="edgeloop distil"):
        convert(source, ConvertRecipe(to=Target.LITERT))


def test_nan_in_a_fitted_array_is_refused_by_its_name() -> None:
    linear = LogisticRegression().fit(SAMPLES, TWO)
    pipe = make_pipeline(StandardScaler(), linear).fit(SAMPLES, TWO)
    pipe.steps[0][1].scale_ = np.array([1.0, np.nan, 1.0, 1.0])
    source = wrap_sklearn(make_pipeline(StandardScaler(), LogisticRegression()).fit(SAMPLES, TWO), name="p.skops")
    source.native.steps[0][1].scale_[1] = np.nan
    with pytest.raises(Refused, match=r"standardscaler\.scale_"):
        convert(source, ConvertRecipe(to=Target.ONNX))
