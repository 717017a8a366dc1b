"""The result cache: exact content, near images within the manifest's bound, entries and age."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from builders import as_bundle, make_parts, quadrant_images
from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.manifest import Manifest, Modality, Reuse
from edgeloop.contracts.preprocess import Interpolation, Resize
from edgeloop.runtime.cache import Kept, ResultCache
from edgeloop.runtime.input.images import as_image, encode_png
from edgeloop.runtime.output.port import Answer
from edgeloop.runtime.predictor import Predictor

ANSWER = Kept(Answer(label="a", score=1.0, margin=1.0, top=()))
OTHER = Kept(Answer(label="b", score=1.0, margin=1.0, top=()))


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _manifest(**reuse: float) -> Manifest:
    return msgspec.structs.replace(make_parts().manifest, reuse=Reuse(**reuse))  # type: ignore[arg-type]


def _scene(level: int = 100) -> NDArray[np.uint8]:
    """(64, 64) grey with a gradient, so that cells differ."""
    rows = np.linspace(0, 60, 64)[:, np.newaxis]
    return (np.full((64, 64), level) + rows).astype(np.uint8)


def test_same_pixels_are_answered_from_the_cache() -> None:
    cache = ResultCache(_manifest(near=0.0))
    cache.keep(cache.find(_scene()), ANSWER)
    assert cache.find(_scene().copy()).kept is ANSWER
    assert (cache.counters.exact, cache.counters.near, cache.counters.computed) == (1, 0, 1)


def test_same_file_is_answered_from_the_cache_without_decoding(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(b"no picture at all")
    cache = ResultCache(_manifest(near=0.0))
    cache.keep(cache.find(path), ANSWER)
    assert cache.find(path).kept is ANSWER


def test_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no input at"):
        ResultCache(_manifest()).find(tmp_path / "none.png")


def test_equal_bytes_of_another_shape_are_another_input() -> None:
    cache = ResultCache(_manifest(near=0.0))
    cache.keep(cache.find(np.zeros((4, 16), np.uint8)), ANSWER)
    assert cache.find(np.zeros((16, 4), np.uint8)).kept is None
    assert cache.find(np.zeros((4, 8), np.uint16)).kept is None


def test_image_within_the_bound_is_answered_from_the_cache() -> None:
    cache = ResultCache(_manifest(near=0.02))  # 5 of 255 steps
    cache.keep(cache.find(_scene(100)), ANSWER)
    assert cache.find(_scene(104)).kept is ANSWER  # a cell's mean is rounded, so not to the step
    assert cache.counters.near == 1


def _twin(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two pixels of one cell in one another's place: other content, the same thumbnail."""
    made = image.copy()
    made[0, 0], made[3, 0] = image[3, 0], image[0, 0]
    return made


def _colours() -> NDArray[np.uint8]:
    """(64, 64, 3), each channel another."""
    return np.dstack([_scene(10), _scene(90), _scene(170)])


def test_same_pixels_are_near_where_near_ones_are_taken() -> None:
    cache = ResultCache(_manifest(near=0.02))
    cache.keep(cache.find(_scene(100)), ANSWER)
    assert cache.find(_scene(100)).kept is ANSWER
    assert cache.find(encode_png(_scene(100))).kept is ANSWER
    assert (cache.counters.exact, cache.counters.near, cache.counters.computed) == (0, 2, 1)


def test_other_pixels_with_the_same_thumbnail_are_near_and_not_the_same() -> None:
    cache = ResultCache(_manifest(near=0.02, sure=0.3))
    cache.keep(cache.find(_scene()), ANSWER)
    assert cache.find(_twin(_scene())).kept is ANSWER
    assert (cache.counters.exact, cache.counters.near) == (0, 1)
    cache.clear()
    cache.keep(cache.find(_scene()), Kept(Answer(label="a", score=0.6, margin=0.2, top=())))
    assert cache.find(_twin(_scene())).kept is None


def test_unsure_answer_is_found_again_once_another_one_that_is_near_has_gone() -> None:
    clock = Clock()
    cache = ResultCache(_manifest(near=0.02, sure=0.3, max_age_s=10.0), now_s=clock)
    cache.keep(cache.find(_scene(100)), Kept(Answer(label="a", score=0.6, margin=0.2, top=())))
    clock.now_s = 5.0
    cache.keep(cache.find(_scene(101)), OTHER)  # of an unsure scene: for its own content only
    clock.now_s = 11.0  # the unsure answer is too old, the other is not
    assert cache.find(_scene(102)).kept is None
    assert cache.find(_scene(101)).kept is OTHER


def test_channels_in_the_other_order_are_another_input() -> None:
    cache = ResultCache(_manifest(near=0.0))
    colours = _colours()
    cache.keep(cache.find(colours), ANSWER)
    assert cache.find(colours[:, :, ::-1]).kept is None


@pytest.mark.parametrize("near", [0.0, 0.02])
def test_view_of_bgr_pixels_is_found_again(near: float) -> None:
    cache = ResultCache(_manifest(near=near))
    bgr = _colours()
    cache.keep(cache.find(bgr[:, :, ::-1]), ANSWER)
    assert cache.find(bgr.copy()[:, :, ::-1]).kept is ANSWER


def test_file_and_array_of_the_same_picture_are_near() -> None:
    cache = ResultCache(_manifest(near=0.02))
    held = cache.find(encode_png(_colours()))
    assert (as_image(held.source) == _colours()).all()  # decoded once, and handed on as it lies in memory
    cache.keep(held, ANSWER)
    assert cache.find(_colours()).kept is ANSWER
    assert cache.find(_colours()[:, :, ::-1]).kept is None


def test_unsure_answer_stands_for_its_exact_content_only() -> None:
    cache = ResultCache(_manifest(near=0.02, sure=0.3))
    unsure = Kept(Answer(label="a", score=0.6, margin=0.2, top=()))
    cache.keep(cache.find(_scene(100)), unsure)
    assert cache.find(_scene(101)).kept is None
    assert cache.find(_scene(100)).kept is unsure


def test_scene_of_an_unsure_answer_is_computed_even_after_one_that_is_sure() -> None:
    # Where answers flicker some are sure by chance: they say no more of the scene than the others.
    cache = ResultCache(_manifest(near=0.02, sure=0.3))
    cache.keep(cache.find(_scene(100)), Kept(Answer(label="a", score=0.6, margin=0.2, top=())))
    cache.keep(cache.find(_scene(101)), ANSWER)
    assert cache.find(_scene(102)).kept is None
    assert cache.find(_scene(101)).kept is ANSWER


def test_image_beyond_the_bound_is_computed() -> None:
    cache = ResultCache(_manifest(near=0.02))
    cache.keep(cache.find(_scene(100)), ANSWER)
    assert cache.find(_scene(107)).kept is None


def test_one_cell_beyond_the_bound_is_enough() -> None:
    cache = ResultCache(_manifest(near=0.02))
    cache.keep(cache.find(_scene()), ANSWER)
    moved = _scene()
    moved[8:12, 20:24] += 40  # one cell of 4 by 4 pixels
    assert cache.find(moved).kept is None


def test_scene_that_changes_slowly_is_computed_anew() -> None:
    """Each frame lies within the bound of the one before it; answers that were taken are not taken from."""
    cache = ResultCache(_manifest(near=0.02))
    computed = []
    for level in range(100, 130):
        held = cache.find(_scene(level))
        if held.kept is None:
            cache.keep(held, ANSWER)
            computed.append(level)
    assert set(np.diff(computed)) <= {5, 6}
    assert len(computed) >= 5


def test_bound_of_zero_takes_only_the_same() -> None:
    cache = ResultCache(_manifest(near=0.0))
    cache.keep(cache.find(_scene(100)), ANSWER)
    assert cache.find(_scene(101)).kept is None


def test_nearest_answer_is_taken() -> None:
    cache = ResultCache(_manifest(near=0.04))  # 10 steps
    cache.keep(cache.find(_scene(100)), ANSWER)
    cache.keep(cache.find(_scene(111)), OTHER)
    assert cache.find(_scene(103)).kept is ANSWER
    assert cache.find(_scene(108)).kept is OTHER


def test_image_of_another_size_is_another_scene() -> None:
    cache = ResultCache(_manifest(near=0.5))
    cache.keep(cache.find(np.full((64, 64), 9, np.uint8)), ANSWER)
    assert cache.find(np.full((32, 64), 9, np.uint8)).kept is None


def test_old_answers_are_forgotten() -> None:
    clock = Clock()
    cache = ResultCache(_manifest(near=0.02, max_age_s=10.0), now_s=clock)
    cache.keep(cache.find(_scene()), ANSWER)
    clock.now_s = 10.0
    assert cache.find(_scene()).kept is ANSWER
    clock.now_s = 10.1
    assert cache.find(_scene()).kept is None
    assert cache.find(_scene(101)).kept is None


def test_number_of_answers_is_bounded_and_the_least_asked_for_leaves() -> None:
    cache = ResultCache(_manifest(near=0.0, entries=2))
    for level in (1, 2):
        cache.keep(cache.find(_scene(level)), ANSWER)
    assert cache.find(_scene(1)).kept is ANSWER
    cache.keep(cache.find(_scene(3)), ANSWER)
    assert [cache.find(_scene(level)).kept is not None for level in (1, 2, 3)] == [True, False, True]


def test_many_inputs_leave_no_more_than_the_bound() -> None:
    cache = ResultCache(_manifest(near=0.02, entries=4))
    rng = np.random.default_rng(0)
    for _ in range(200):
        held = cache.find(rng.integers(0, 255, (16, 16), np.uint8))
        if held.kept is None:
            cache.keep(held, ANSWER)
    assert len(cache) <= 4


def test_arrays_that_are_no_images_are_cached_by_content_alone() -> None:
    manifest = _manifest(near=0.5)
    manifest = msgspec.structs.replace(
        manifest, input=msgspec.structs.replace(manifest.input, modality=Modality.TENSOR)
    )
    cache = ResultCache(manifest)
    cache.keep(cache.find(np.zeros((2, 3), np.float32)), ANSWER)
    assert cache.find(np.full((2, 3), 1e-6, np.float32)).kept is None
    assert cache.find(np.zeros((2, 3), np.float32)).kept is ANSWER


def test_files_decoded_in_part_are_cached_by_content_alone() -> None:
    manifest = _manifest(near=0.5)
    first = Resize(8, 8, Interpolation.LINEAR, reduced_decode=True)
    cache = ResultCache(msgspec.structs.replace(manifest, preprocess=(first, *manifest.preprocess)))
    held = cache.find(encode_png(_scene()))
    assert isinstance(held.source, bytes)
    cache.keep(cache.find(_scene(100)), ANSWER)
    assert cache.find(_scene(101)).kept is ANSWER


def test_predictor_says_which_answers_were_taken() -> None:
    bundle = as_bundle(make_parts())
    predictor = Predictor(bundle, bundle.manifest.variants[0], cache=ResultCache(bundle.manifest))
    image = quadrant_images(1)[0]
    first, second = predictor.predict(image), predictor.predict(image)
    assert (first.cached, second.cached) == (False, True)
    assert (first.label, first.top, first.margin) == (second.label, second.top, second.margin)
    predictor.close()


def test_manifest_that_asks_for_more_entries_than_memory_has_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"2,147,483,648 answers.*at most 4,096"):
        ResultCache(_manifest(entries=2**31))


def test_thumbnail_of_an_answer_that_left_is_not_found_any_more() -> None:
    manifest = _manifest(near=0.5, entries=1)
    first = Resize(8, 8, Interpolation.LINEAR, reduced_decode=True)
    cache = ResultCache(msgspec.structs.replace(manifest, preprocess=(first, *manifest.preprocess)))
    cache.keep(cache.find(_scene(100)), ANSWER)
    cache.keep(cache.find(encode_png(_scene(10))), OTHER)  # takes the place, and has no thumbnail
    assert cache.find(_scene(101)).kept is None
