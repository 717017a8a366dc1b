from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Modality
from edgeloop.toolchain.data.dataset import Dataset, split
from edgeloop.toolchain.nets.name import NetName
from edgeloop.toolchain.progress import silent
from edgeloop.toolchain.train import TrainRecipe, train, wanted_input

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]

COUNT = 400


def _split(inputs: NDArray[Any], modality: Modality) -> Dataset:
    labels = np.arange(COUNT, dtype=np.int64) % 2
    return split("made", inputs, labels, label_names=("left", "right"), sha256="0" * 64, seed=0, modality=modality)


@pytest.fixture(scope="module")
def colours() -> Dataset:
    """Images of noise with a bright half: the left for even numbers, the right for odd ones."""
    images = np.random.default_rng(0).integers(0, 100, size=(COUNT, 12, 12, 3), dtype=np.uint8)
    images[0::2, :, :6, 1] += 120
    images[1::2, :, 6:, 1] += 120
    return _split(images, Modality.IMAGE)


@pytest.fixture(scope="module")
def series() -> Dataset:
    """Waves of two frequencies, each at a phase of its own."""
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, size=(COUNT, 1))
    rate = np.where(np.arange(COUNT) % 2, 3.0, 6.0)[:, np.newaxis]
    waves = np.sin(np.linspace(0, 2 * np.pi, 32) * rate + phase)
    return _split(waves[..., np.newaxis].astype(np.float32), Modality.TENSOR)


@pytest.fixture(scope="module")
def table() -> Dataset:
    """Rows whose first number tells the class, far from zero mean and unit spread."""
    rows = np.random.default_rng(0).normal(size=(COUNT, 5)).astype(np.float32)
    rows[:, 0] = rows[:, 0] * 20 + 500 + 100 * (np.arange(COUNT) % 2)
    return _split(rows, Modality.TENSOR)


def test_slim_net_learns_colour_images(colours: Dataset) -> None:
    recipe = TrainRecipe(net=NetName.SLIM, width=0.25, depth=1, images_seen=2_000, learning_rate=1e-2)
    _, report = train(recipe, colours, progress=silent)
    # 32 validation samples, chance is a half; a net that had seen nothing of the place would stay there.
    assert report.accuracy is not None
    assert report.accuracy > 0.85
    assert (report.fitted_on, report.epochs) == (len(colours.fit), round(2_000 / len(colours.fit)))


def test_series_net_learns_waves(series: Dataset) -> None:
    recipe = TrainRecipe(net=NetName.SERIES, width=0.5, depth=2, images_seen=1_500, learning_rate=1e-2)
    _, report = train(recipe, series, progress=silent)
    assert report.accuracy is not None
    assert report.accuracy > 0.85


def test_dense_net_learns_a_table_of_any_scale(table: Dataset) -> None:
    recipe = TrainRecipe(net=NetName.DENSE, width=0.25, images_seen=3_000, learning_rate=1e-2)
    _, report = train(recipe, table, progress=silent)
    assert report.accuracy is not None
    assert report.accuracy > 0.85


def test_autoencoder_learns_without_labels(series: Dataset) -> None:
    blank = replace(series, label_names=())
    losses = []
    for images_seen in (64, 4_000):
        recipe = TrainRecipe(net=NetName.AUTOENCODER, images_seen=images_seen, learning_rate=5e-3)
        _, report = train(recipe, blank, progress=silent)
        assert report.accuracy is None
        losses.append(report.loss)
    # A sine's mean square is a half; 64 samples are one step.
    assert losses[1] < 0.25 < losses[0]


def test_images_are_brought_to_the_side_that_the_recipe_says(colours: Dataset) -> None:
    recipe = TrainRecipe(net=NetName.SLIM, width=0.25, depth=1, images_seen=64, side_px=9, grey=True)
    made, _ = train(recipe, colours, progress=silent)
    assert made.only_input().shape == (1, 9, 9, 1)
    wanted = wanted_input(recipe)
    assert wanted is not None
    assert wanted.shape == (1, 9, 9, 1)


def test_digits_net_is_refused_for_colour(colours: Dataset) -> None:
    with pytest.raises(InvalidInput, match=r"takes grey images, .*; take 'slim'"):
        train(TrainRecipe(images_seen=64), colours, progress=silent)


def test_learning_rate_that_blows_up_is_refused_with_the_epoch(series: Dataset) -> None:
    recipe = TrainRecipe(net=NetName.AUTOENCODER, images_seen=3_000, learning_rate=1e30)
    with pytest.raises(Refused, match=r"the loss turned \w+ in epoch \d+, after .* lower the learning rate"):
        train(recipe, series, progress=silent)
