"""A dataset that a net of a few hundred weights learns in seconds: 8 x 8 images of stripes, by their direction."""

import numpy as np

from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.data.dataset import UNLABELLED, Dataset, Prepared, prepare, split

SHAPE = (8, 8, 1)
NAMES = ("across", "down", "plain")


def striped(count: int = 600, *, labelled: bool = True, seed: int = 0) -> Prepared:
    """`count` images with noise, brought to an input "image" (1, 8, 8, 1) in 0..1."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(NAMES), count)
    phase = rng.integers(0, 4, (count, 1))
    wave = np.where((np.arange(8) + phase) % 4 < 2, 200, 30)
    images = np.full((count, 8, 8), 110)
    images[labels == 0] = wave[labels == 0][:, :, np.newaxis]
    images[labels == 1] = wave[labels == 1][:, np.newaxis, :]
    noisy = np.clip(images + rng.normal(0, 25, images.shape), 0, 255).astype(np.uint8)
    dataset: Dataset = split(
        "striped",
        noisy,
        labels if labelled else np.full(count, UNLABELLED),
        label_names=NAMES if labelled else (),
        sha256="0" * 64,
        seed=seed,
    )
    return prepare(dataset, TensorSpec("image", (1, *SHAPE), "float32"))
