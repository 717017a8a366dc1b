import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.data.dataset import Dataset, field_to_fit, split

COUNT = 400


def _numbered(count: int) -> NDArray[np.uint8]:
    """(count, 28, 28) images that each bear their own number in their first bytes."""
    images = np.zeros((count, 28, 28), np.uint8)
    images.reshape(count, -1)[:, :4] = np.arange(count, dtype=">u4").view(np.uint8).reshape(count, 4)
    return images


def _numbers(images: NDArray[np.uint8]) -> list[int]:
    first = np.ascontiguousarray(images.reshape(len(images), -1)[:, :4])
    return [int(number) for number in first.view(">u4").ravel()]


def _classes(count: int) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) % 10


def _split(count: int = COUNT, *, seed: int = 0) -> Dataset:
    names = tuple("0123456789")
    return split("digits", _numbered(count), _classes(count), label_names=names, sha256="0" * 64, seed=seed)


# ---- the four parts


@pytest.mark.parametrize("count", [200, 401, 5000])
def test_parts_are_disjoint_and_complete(count: int) -> None:
    data = _split(count)
    parts = [_numbers(part.inputs) for part in (data.fit, data.validation, data.holdout, data.field)]
    assert sorted(number for part in parts for number in part) == list(range(count))


def test_no_part_is_empty() -> None:
    data = _split(200)
    assert min(len(part) for part in (data.fit, data.validation, data.holdout, data.field)) >= 10


def test_labels_stay_with_their_images() -> None:
    data = _split()
    for part in (data.fit, data.validation, data.holdout, data.field):
        assert [number % 10 for number in _numbers(part.inputs)] == part.labels.tolist()


def test_same_seed_splits_the_same_way() -> None:
    first, again = _split(seed=3), _split(seed=3)
    assert _numbers(first.fit.inputs) == _numbers(again.fit.inputs)


def test_other_seed_splits_another_way() -> None:
    assert _numbers(_split(seed=3).holdout.inputs) != _numbers(_split(seed=4).holdout.inputs)


def test_too_few_samples_are_refused_with_the_count() -> None:
    with pytest.raises(InvalidInput, match="199 samples; at least 200"):
        _split(199)


def test_take_gives_the_first() -> None:
    part = _split().fit
    assert _numbers(part.take(5).inputs) == _numbers(part.inputs)[:5]


@pytest.mark.parametrize("count", [200, 333, 5000])
def test_validation_has_enough_for_golden_samples(count: int) -> None:
    assert len(_split(count).validation) >= 32


def test_what_no_device_is_shown_trains() -> None:
    whole = _split()
    given = field_to_fit(whole)
    assert _numbers(given.fit.inputs) == _numbers(whole.fit.inputs) + _numbers(whole.field.inputs)
    assert (len(given.field), _numbers(given.holdout.inputs)) == (0, _numbers(whole.holdout.inputs))
