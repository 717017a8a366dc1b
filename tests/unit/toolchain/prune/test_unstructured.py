"""Single weights become zero, stay zero, and only compression gains."""

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.data.dataset import Prepared
from edgeloop.toolchain.prune.macs import count
from edgeloop.toolchain.prune.unstructured import (
    SparsifyRecipe,
    SparsifyReport,
    kernels_of,
    scheduled,
    sparsify,
)
from edgeloop.toolchain.source.keras import plain_keras
from edgeloop.toolchain.source.model import Model


@pytest.fixture(scope="module")
def thinned(trained: Model, data: Prepared) -> tuple[Model, SparsifyReport]:
    recipe = SparsifyRecipe(
        sparsity=0.7, updates=2, images_seen=2_400, batch_size=32, learning_rate=5e-3, augment=False
    )
    return sparsify(trained, recipe, data)


def test_every_kernel_holds_the_share_of_zeros_after_fitting(thinned: tuple[Model, SparsifyReport]) -> None:
    made, report = thinned
    for kernel in kernels_of(plain_keras(made)):
        values = kernel.numpy()
        assert (values == 0).sum() == round(0.7 * values.size)
    assert report.sparsity_after == pytest.approx(0.7, abs=0.01)
    assert report.sparsity_before < 0.01


def test_only_the_compressed_file_shrinks(trained: Model, thinned: tuple[Model, SparsifyReport]) -> None:
    made, report = thinned
    assert count(plain_keras(made)).macs == count(plain_keras(trained)).macs
    # Files of the same arrays; the tables around them differ a little.
    assert report.size_bytes_after == pytest.approx(report.size_bytes_before, rel=0.02)
    assert report.zstd_bytes_after < report.zstd_bytes_before
    assert report.deflate_bytes_after < report.deflate_bytes_before


def test_thinned_network_still_knows_what_it_knew(thinned: tuple[Model, SparsifyReport]) -> None:
    _, report = thinned
    assert report.accuracy_before is not None
    assert report.accuracy_after is not None
    assert report.accuracy_after >= report.accuracy_before - 0.05


def test_source_is_untouched_and_the_result_saves_without_a_constraint(
    trained: Model, thinned: tuple[Model, SparsifyReport]
) -> None:
    made, _ = thinned
    assert all(kernel.constraint is None for kernel in kernels_of(plain_keras(made)))
    assert all((kernel.numpy() != 0).mean() > 0.9 for kernel in kernels_of(plain_keras(trained)))
    assert [step.kind for step in made.steps] == ["sparsify"]


def test_schedule_is_cubic() -> None:
    found = [scheduled(0.8, 0.0, share) for share in (0.0, 0.25, 0.5, 1.0)]
    # 0.8 - 0.8 (1 - t)^3, by hand.
    assert found == pytest.approx([0.0, 0.8 - 0.8 * 27 / 64, 0.8 - 0.8 / 8, 0.8])


def test_depthwise_kernels_stay() -> None:
    keras = import_keras()
    image = keras.Input((6, 6, 2))
    x = keras.layers.DepthwiseConv2D(3)(image)
    x = keras.Sequential([keras.layers.SeparableConv2D(4, 3, name="apart")], name="inside")(x)
    net = keras.Model(image, keras.layers.Dense(2, name="logits")(keras.layers.Flatten()(x)))
    assert {kernel.path for kernel in kernels_of(net)} == {"inside/apart/pointwise_kernel", "logits/kernel"}


def test_sparsity_out_of_range_is_refused(trained: Model, data: Prepared) -> None:
    with pytest.raises(InvalidInput, match="sparsity"):
        sparsify(trained, SparsifyRecipe(sparsity=1.0), data)


def test_without_fitting_the_largest_weights_stay_as_they_were(trained: Model, data: Prepared) -> None:
    made, _ = sparsify(trained, SparsifyRecipe(sparsity=0.5, updates=1, images_seen=0), data)
    for before, after in zip(kernels_of(plain_keras(trained)), kernels_of(plain_keras(made)), strict=True):
        old, new = before.numpy(), after.numpy()
        large = np.abs(old) > np.median(np.abs(old))
        assert np.array_equal(new[large], old[large])
        assert (new[~large] == 0).mean() > 0.99
