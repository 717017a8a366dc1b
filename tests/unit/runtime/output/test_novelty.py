"""Against the definition, written out in plain NumPy."""

import numpy as np
import pytest

from builders import as_bundle, make_parts, quadrant_images, quadrant_weights
from edgeloop.contracts.errors import Corrupt
from edgeloop.runtime.output.novelty import NoveltyScale, feature_distance
from edgeloop.runtime.predictor import Predictor

RNG = np.random.default_rng(5)
FEATURES = RNG.normal(size=(20, 6))
MEANS = RNG.normal(size=(3, 6))
STD = RNG.uniform(0.5, 2.0, 6)
PREDICTED = RNG.integers(0, 3, 20)


def _distance(row: np.ndarray, mean: np.ndarray, std: np.ndarray) -> float:
    return float(np.sqrt(sum(((x - m) / s) ** 2 for x, m, s in zip(row, mean, std, strict=True)) / len(row)))


def test_distance_is_the_root_mean_square_in_standard_deviations() -> None:
    expected = [_distance(row, MEANS[label], STD) for row, label in zip(FEATURES, PREDICTED, strict=True)]
    # Distances of about 2, computed from float32 features.
    np.testing.assert_allclose(feature_distance(FEATURES, PREDICTED, MEANS, STD), expected, rtol=1e-5)


def test_distance_of_a_class_mean_to_itself_is_zero() -> None:
    means = MEANS.astype(np.float32)
    assert feature_distance(means, np.arange(3), means, STD).tolist() == [0.0, 0.0, 0.0]


def test_novelty_is_the_distance_in_standard_deviations_of_clean_data() -> None:
    bundle = as_bundle(make_parts())
    reference = bundle.manifest.reference
    assert reference is not None
    clean = quadrant_weights().features(quadrant_images(80, seed=1))
    mean = clean[2::4].mean(axis=0)
    std = np.concatenate([clean[k::4] - clean[k::4].mean(axis=0) for k in range(4)]).std(axis=0)
    row = np.array([[0.1, 0.4, 0.6, 0.2]])
    expected = (_distance(row[0], mean, std) - reference.distance_mean[2]) / reference.distance_std[2]
    # A distance of about 30 from float32 means and stds errs by 1e-5; divided by a std of about 0.4.
    assert NoveltyScale(bundle).novelty(row, 2) == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_energy_is_standardised_by_the_predicted_label() -> None:
    bundle = as_bundle(make_parts())
    reference = bundle.manifest.reference
    assert reference is not None
    expected = (-7.5 - reference.energy_mean[1]) / reference.energy_std[1]
    assert NoveltyScale(bundle).energy_z(-7.5, 1) == pytest.approx(expected)


def test_clean_images_are_not_novel_on_average() -> None:
    bundle = as_bundle(make_parts())
    predictor = Predictor(bundle, bundle.manifest.variants[0])
    found = [answer.novelty or 0.0 for answer in predictor.predict_many(quadrant_images(200, seed=9))]
    # The mean of 200 standardised values has a standard deviation of 0.07, that of the reference of 80 is 0.11.
    assert abs(np.mean(found)) < 0.5


def test_inverted_images_are_novel() -> None:
    bundle = as_bundle(make_parts())
    predictor = Predictor(bundle, bundle.manifest.variants[0])
    found = [answer.novelty or 0.0 for answer in predictor.predict_many(255 - quadrant_images(20, seed=9))]
    assert min(found) > 3.0


def test_bundle_without_a_reference_has_no_scale() -> None:
    with pytest.raises(Corrupt, match="no drift reference"):
        NoveltyScale(as_bundle(make_parts().changed(reference=None)))
