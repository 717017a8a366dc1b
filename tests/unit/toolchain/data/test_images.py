from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.contracts.manifest import Modality
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.images import encode_png
from edgeloop.toolchain.data.dataset import UNLABELLED, prepare
from edgeloop.toolchain.data.open import calibration_samples, open_dataset

EACH = 120


def _image(shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def _fill(folder: Path, count: int, *, shape: tuple[int, ...] = (6, 8, 3)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"{index:03d}.png").write_bytes(encode_png(_image(shape, index)))


def _classes(folder: Path, *, shape: tuple[int, ...] = (6, 8, 3)) -> None:
    _fill(folder / "dog", EACH, shape=shape)
    _fill(folder / "cat", EACH, shape=shape)


def _taken(*shape: int) -> TensorSpec:
    return TensorSpec("image", shape, "float32")


def test_folders_are_the_labels_in_the_order_of_their_names(tmp_path: Path) -> None:
    _classes(tmp_path)
    data = open_dataset(str(tmp_path))
    assert (data.label_names, data.modality) == (("cat", "dog"), Modality.IMAGE)
    assert sorted(np.unique(data.fit.labels).tolist()) == [0, 1]


def test_folders_called_by_numbers_are_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    for name in ("10", "9", "2"):
        _fill(tmp_path / name, 70)
    assert open_dataset(str(tmp_path)).label_names == ("2", "9", "10")


def test_pixels_come_back_as_they_were_written_with_their_label(tmp_path: Path) -> None:
    _fill(tmp_path / "even", EACH)
    _fill(tmp_path / "odd", EACH)
    for index in range(EACH):
        for name in ("even", "odd"):
            pixels = np.full((6, 8, 3), index, np.uint8)
            pixels[..., 1] = name == "odd"
            (tmp_path / name / f"{index:03d}.png").write_bytes(encode_png(pixels))
    part = open_dataset(str(tmp_path)).fit
    assert np.array_equal(part.inputs[:, 0, 0, 1], part.labels)


def test_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    _fill(tmp_path, 200)
    data = open_dataset(str(tmp_path))
    assert (data.label_names, data.is_labelled, set(data.fit.labels.tolist())) == ((), False, {UNLABELLED})


def test_grey_images_stay_grey_and_become_colour_beside_colour(tmp_path: Path) -> None:
    _classes(tmp_path, shape=(6, 8))
    assert open_dataset(str(tmp_path)).fit.inputs.shape[1:] == (6, 8)
    (tmp_path / "cat" / "000.png").write_bytes(encode_png(_image((6, 8, 3), 0)))
    assert open_dataset(str(tmp_path)).fit.inputs.shape[1:] == (6, 8, 3)


@pytest.mark.parametrize("shape", [(1, 5, 4, 3), (1, 5, 4, 1), (1, 3, 5, 4)])
def test_images_of_all_sizes_fit_the_model_as_they_would_on_a_device(tmp_path: Path, shape: tuple[int, ...]) -> None:
    from edgeloop.runtime.input.preprocess import preprocess

    for index in range(20):
        (tmp_path / f"{index:02d}.png").write_bytes(encode_png(_image((10 + index, 12, 3), index)))
    prepared = calibration_samples(str(tmp_path), _taken(*shape))
    made = prepared.tensors(prepared.dataset.fit.inputs)
    alone = [preprocess(_image((10 + index, 12, 3), index), prepared.steps, prepared.spec) for index in range(20)]
    assert {tensor.tobytes() for tensor in made} == {tensor.tobytes() for tensor in alone}


def test_grey_images_serve_a_colour_model(tmp_path: Path) -> None:
    _classes(tmp_path, shape=(6, 8))
    taken = _taken(1, 6, 8, 3)
    prepared = prepare(open_dataset(str(tmp_path), taken=taken), taken)
    assert prepared.tensors(prepared.dataset.holdout.inputs).shape == (48, 6, 8, 3)


def test_hidden_files_are_not_data(tmp_path: Path) -> None:
    _classes(tmp_path)
    (tmp_path / ".git").mkdir()
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
    assert open_dataset(str(tmp_path)).label_names == ("cat", "dog")


# ---- bad input


def test_unreadable_files_are_named_the_first_five_and_how_many_more(tmp_path: Path) -> None:
    _classes(tmp_path)
    for index in range(7):
        (tmp_path / "cat" / f"{index:03d}.png").write_bytes(b"no image")
    with pytest.raises(Corrupt, match=r"7 of 240 files .* cat/000\.png .* cat/004\.png .*; and 2 more") as caught:
        open_dataset(str(tmp_path))
    assert "005.png" not in str(caught.value)


def test_file_of_another_kind_is_named(tmp_path: Path) -> None:
    _classes(tmp_path)
    (tmp_path / "dog" / "notes.txt").write_text("x")
    with pytest.raises(Corrupt, match=r"dog/notes\.txt"):
        open_dataset(str(tmp_path))


def test_sizes_that_differ_without_a_model_are_refused_with_both(tmp_path: Path) -> None:
    _classes(tmp_path)
    (tmp_path / "dog" / "000.png").write_bytes(encode_png(_image((7, 8), 0)))
    with pytest.raises(InvalidInput, match=r"cat/000\.png has 6x8 pixels, dog/000\.png 7x8; say which size"):
        open_dataset(str(tmp_path))


def test_one_class_is_refused(tmp_path: Path) -> None:
    _fill(tmp_path / "cat", 200)
    with pytest.raises(InvalidInput, match=r"one class only \(cat\)"):
        open_dataset(str(tmp_path))


def test_empty_class_folder_is_named(tmp_path: Path) -> None:
    _classes(tmp_path)
    (tmp_path / "emu").mkdir()
    with pytest.raises(InvalidInput, match=r"emu is empty"):
        open_dataset(str(tmp_path))


def test_folders_in_class_folders_are_refused(tmp_path: Path) -> None:
    _fill(tmp_path / "train" / "cat", 1)
    with pytest.raises(InvalidInput, match="train has folders inside"):
        open_dataset(str(tmp_path))


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    _classes(tmp_path)
    _fill(tmp_path, 1)
    with pytest.raises(InvalidInput, match=r"1 images beside them, 000\.png first"):
        open_dataset(str(tmp_path))


def test_model_that_takes_no_image_is_refused(tmp_path: Path) -> None:
    _classes(tmp_path)
    with pytest.raises(InvalidInput, match=r"takes \(1, 10\); images go into"):
        open_dataset(str(tmp_path), taken=_taken(1, 10))
