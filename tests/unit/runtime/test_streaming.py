"""Streams end to end: a source, a predictor, and what lasts from one input to the next."""

import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from builders import LABELS, Parts, as_bundle, make_parts, quadrant_images
from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.output import Consensus, MedianOf, Smoothing
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.streaming import Stream

IMAGES = quadrant_images(8, seed=3)


def _predictor(parts: Parts | None = None) -> Predictor:
    bundle = as_bundle(parts or make_parts())
    return Predictor(bundle, bundle.manifest.variants[0])


def _smoothed(smoothing: Smoothing) -> Predictor:
    parts = make_parts()
    return _predictor(parts.changed(output=msgspec.structs.replace(parts.manifest.output, smoothing=smoothing)))


def _folder(folder: Path, *extra: tuple[str, bytes]) -> Path:
    for index, image in enumerate(IMAGES[:4]):
        (folder / f"{index}.png").write_bytes(encode_png(image))
    for name, data in extra:
        (folder / name).write_bytes(data)
    return folder


def test_folder_is_answered_in_name_order(tmp_path: Path) -> None:
    made = list(_predictor().stream(str(_folder(tmp_path))))
    assert [(one.source, one.label) for one in made] == [(f"{i}.png", LABELS[i]) for i in range(4)]


def test_arrays_of_an_iterator_are_answered_one_by_one() -> None:
    made = list(_predictor().stream(iter(IMAGES)))
    assert [one.label for one in made] == [*LABELS, *LABELS]
    assert all(one.at_s is not None for one in made)


def test_source_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        next(_predictor().stream(str(tmp_path / "none")))


def test_input_that_cannot_be_used_ends_nothing_and_is_counted(tmp_path: Path) -> None:
    stream = Stream(_predictor(), str(_folder(tmp_path, ("1b.png", b"no picture"))))
    made = [one for _, one in stream.answers()]
    assert [isinstance(one, Prediction) for one in made] == [True, True, False, True, True]
    assert (stream.counts.answered, stream.counts.failed) == (4, 1)


def test_scene_that_does_not_change_is_computed_once() -> None:
    predictor = _predictor()
    stream = Stream(predictor, [IMAGES[0]] * 5)
    made = list(stream.predictions())
    assert [one.cached for one in made] == [False, True, True, True, True]
    assert (stream.counts.near, stream.counts.answered) == (4, 5)


def test_every_frame_is_computed_when_the_cache_is_off() -> None:
    assert not any(one.cached for one in _predictor().stream([IMAGES[0]] * 3, cache=False))


def test_stop_ends_an_endless_stream() -> None:
    stop = threading.Event()

    def endless() -> Any:
        while True:
            yield IMAGES[0]

    made = []
    for one in _predictor().stream(endless(), stop=stop):
        made.append(one)
        if len(made) == 3:
            stop.set()
    assert len(made) == 3


def test_consensus_needs_as_many_as_the_manifest_says() -> None:
    order = [0, 0, 1, 1, 1]
    made = list(_smoothed(Consensus(of=3, at_least=2)).stream([IMAGES[index] for index in order]))
    # One answer alone is no consensus; then the two of the last three that agree.
    assert [one.label for one in made] == [None, LABELS[0], LABELS[0], LABELS[1], LABELS[1]]


@pytest.mark.parametrize("cache", [True, False])
def test_median_of_probabilities_is_that_of_the_last_k(cache: bool) -> None:
    predictor = _smoothed(MedianOf(k=3))
    order = [0, 1, 1, 0, 0]
    made = list(predictor.stream([IMAGES[index] for index in order], cache=cache))
    plain = np.stack([predictor.basis(IMAGES[index]) for index in order])
    expected = [np.median(plain[max(0, end - 2) : end + 1], axis=0).max() for end in range(5)]
    np.testing.assert_allclose([one.score for one in made], expected, atol=1e-6)  # float32 probabilities
    if cache:
        assert [one.cached for one in made] == [False, False, True, True, True]


def test_single_predictions_are_not_smoothed() -> None:
    predictor = _smoothed(Consensus(of=3, at_least=3))
    assert predictor.predict(IMAGES[2]).label == LABELS[2]


def test_streams_of_one_predictor_keep_their_caches_apart_and_leave_the_predictors_own_alone() -> None:
    predictor = _predictor()
    both = zip(predictor.stream([IMAGES[0]] * 3), predictor.stream([IMAGES[0]] * 3), strict=True)
    # Each computes its own first frame, although the other has just answered the same.
    assert [(one.cached, other.cached) for one, other in both] == [(False, False), (True, True), (True, True)]
    assert predictor.cache is None
    assert not predictor.predict(IMAGES[0]).cached
