import random
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from builders import LABELS, make_bundle, quadrant_images, quadrant_weights
from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.messages import Alert, Body, Event, Reading, Sample
from edgeloop.contracts.states import Reason
from edgeloop.device.config import SelectConfig
from edgeloop.device.infer import InferenceLoop
from edgeloop.device.select import Selector
from edgeloop.device.slots import Slot, Slots
from edgeloop.device.sources import Frame
from edgeloop.device.watch import Watch
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.load import load
from edgeloop.runtime.predictor import Predictor
from edgeloop.transport.outbox import Outbox

NOTHING_CHOSEN = SelectConfig(unsure_share=0.0, novel_share=0.0, audit_share=0.0)
ALL_NOVEL = SelectConfig(unsure_share=0.0, novel_share=1.0, audit_share=0.0, novel_above_std=-1e9)


class ListSource:
    """A source that ends after its frames."""

    def __init__(self, frames: Iterable[Frame]) -> None:
        self._frames = list(frames)

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """See Source.frames."""
        for frame in self._frames:
            if stop.is_set():
                return
            yield frame


class FullOutbox:
    """The outbox's `append` on a disk that is full from the second call on."""

    def __init__(self) -> None:
        self.taken: list[Body] = []
        self._calls = 0

    def append(self, bodies: Iterable[Body], *, at_ms: int) -> list[int]:
        """See Outbox.append."""
        self._calls += 1
        if self._calls > 1:
            raise Unavailable("the outbox cannot write: database or disk is full")
        self.taken += bodies
        return list(range(1, len(self.taken) + 1))


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    return load(make_bundle(tmp_path))


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox(tmp_path / "outbox.db", "camera-1")
    yield opened
    opened.close()


def _frames(images: NDArray[np.uint8]) -> list[Frame]:
    return [Frame(f"{i:03d}.png", encode_png(image), "image/png") for i, image in enumerate(images)]


def _broken(name: str = "broken.png") -> Frame:
    return Frame(name, b"this is no image", "image/png")


def _loop(
    frames: list[Frame],
    slot: Slot,
    outbox: Outbox | FullOutbox,
    config: SelectConfig = NOTHING_CHOSEN,
    *,
    shadow_share: float = 1.0,
) -> InferenceLoop:
    slots = Slots()
    slots.put(slot)
    selector = Selector(config, rng=random.Random(0))
    return InferenceLoop(ListSource(frames), slots, selector, outbox, shadow_share=shadow_share, seed=0)  # type: ignore[arg-type]


def _events(outbox: Outbox) -> list[Event]:
    return list(outbox.events())


def _readings(outbox: Outbox) -> list[Reading]:
    return [event.body for event in _events(outbox) if isinstance(event.body, Reading)]


def _inverted(tmp_path: Path) -> Predictor:
    """A version that never gives the right label."""
    weights = quadrant_weights(sharpness=-20.0)
    return load(make_bundle(tmp_path, version="1.1.0", weights=weights))


def test_each_frame_becomes_a_reading(predictor: Predictor, outbox: Outbox) -> None:
    _loop(_frames(quadrant_images(8)), Slot(predictor), outbox).run(threading.Event())
    assert [(r.source, r.prediction.label) for r in _readings(outbox)] == [
        (f"{i:03d}.png", LABELS[i % 4]) for i in range(8)
    ]


def test_readings_are_counted(predictor: Predictor, outbox: Outbox) -> None:
    loop = _loop(_frames(quadrant_images(8)), Slot(predictor), outbox)
    loop.run(threading.Event())
    assert (loop.readings, loop.errors, loop.dropped, loop.last_frame) == (8, 0, 0, "007.png")


def test_unreadable_frame_does_not_stop_the_loop(predictor: Predictor, outbox: Outbox) -> None:
    first, second = _frames(quadrant_images(2))
    loop = _loop([first, _broken(), second], Slot(predictor), outbox)
    loop.run(threading.Event())
    assert [reading.source for reading in _readings(outbox)] == ["000.png", "001.png"]


def test_unreadable_frame_is_counted(predictor: Predictor, outbox: Outbox) -> None:
    loop = _loop([_broken("a.png"), _broken("b.png"), *_frames(quadrant_images(1))], Slot(predictor), outbox)
    loop.run(threading.Event())
    assert (loop.readings, loop.errors) == (1, 2)


def test_unreadable_frame_counts_against_a_version_on_watch(predictor: Predictor, outbox: Outbox) -> None:
    watch = Watch()
    _loop([_broken(), *_frames(quadrant_images(1))], Slot(predictor, watch=watch), outbox).run(threading.Event())
    assert (watch.stats().readings, watch.stats().errors) == (2, 1)


def test_inference_goes_on_with_a_full_outbox(predictor: Predictor) -> None:
    loop = _loop(_frames(quadrant_images(5)), Slot(predictor), FullOutbox())
    loop.run(threading.Event())
    assert loop.readings == 5


def test_full_outbox_counts_what_was_dropped(predictor: Predictor) -> None:
    loop = _loop(_frames(quadrant_images(5)), Slot(predictor), FullOutbox(), ALL_NOVEL)
    loop.run(threading.Event())
    # A reading and its sample each time, but for the first that still had room.
    assert loop.dropped == 2 * 4


def test_sample_directly_follows_its_reading(predictor: Predictor, outbox: Outbox) -> None:
    frames = _frames(quadrant_images(3))
    _loop(frames, Slot(predictor), outbox, ALL_NOVEL).run(threading.Event())
    events = _events(outbox)
    assert [(type(e.body), e.sequence) for e in events] == [
        (kind, 2 * i + n) for i in range(3) for n, kind in ((1, Reading), (2, Sample))
    ]


def test_sample_is_the_frame_with_its_reason(predictor: Predictor, outbox: Outbox) -> None:
    (frame,) = _frames(quadrant_images(1))
    _loop([frame], Slot(predictor), outbox, ALL_NOVEL).run(threading.Event())
    sample = _events(outbox)[1].body
    assert sample == Sample(source="000.png", reason=Reason.NOVEL, media="image/png", data=frame.data)


def test_reading_says_whether_its_sample_was_sent(predictor: Predictor, outbox: Outbox) -> None:
    _loop(_frames(quadrant_images(1)), Slot(predictor), outbox, ALL_NOVEL).run(threading.Event())
    _loop(_frames(quadrant_images(1)), Slot(predictor), outbox).run(threading.Event())
    assert [reading.sent_sample for reading in _readings(outbox)] == [True, False]


def test_drift_is_alerted_once(predictor: Predictor, outbox: Outbox) -> None:
    inverted = np.asarray(255 - quadrant_images(40), np.uint8)
    loop = _loop(_frames(inverted), Slot(predictor), outbox)
    loop.run(threading.Event())
    alerts = [event.body for event in _events(outbox) if isinstance(event.body, Alert)]
    assert [alert.what for alert in alerts] == ["drift"]


def test_clean_readings_alert_nobody(predictor: Predictor, outbox: Outbox) -> None:
    _loop(_frames(quadrant_images(80, seed=3)), Slot(predictor), outbox).run(threading.Event())
    assert not [event for event in _events(outbox) if isinstance(event.body, Alert)]


def test_shadow_that_agrees_is_counted(predictor: Predictor, outbox: Outbox, tmp_path: Path) -> None:
    watch = Watch()
    shadow = load(make_bundle(tmp_path, version="0.9.0"))
    _loop(_frames(quadrant_images(6)), Slot(predictor, shadow=shadow, watch=watch), outbox).run(threading.Event())
    stats = watch.stats()
    assert (stats.readings, stats.disagreements, stats.errors) == (6, 0, 0)
    assert min(stats.latency_p50_ms, stats.shadow_latency_p50_ms) > 0


def test_shadow_that_disagrees_is_counted(predictor: Predictor, outbox: Outbox, tmp_path: Path) -> None:
    watch = Watch()
    slot = Slot(_inverted(tmp_path), shadow=predictor, watch=watch)
    _loop(_frames(quadrant_images(6)), slot, outbox).run(threading.Event())
    assert (watch.stats().readings, watch.stats().disagreements) == (6, 6)


def test_reading_bears_the_shadows_label(predictor: Predictor, outbox: Outbox, tmp_path: Path) -> None:
    slot = Slot(_inverted(tmp_path), shadow=predictor, watch=Watch())
    _loop(_frames(quadrant_images(4)), slot, outbox).run(threading.Event())
    assert [reading.shadow_label for reading in _readings(outbox)] == list(LABELS)


def test_disagreement_with_the_shadow_is_a_reason_to_send(predictor: Predictor, outbox: Outbox, tmp_path: Path) -> None:
    config = SelectConfig(unsure_share=1.0, novel_share=0.0, audit_share=0.0)
    slot = Slot(_inverted(tmp_path), shadow=predictor, watch=Watch())
    _loop(_frames(quadrant_images(1)), slot, outbox, config).run(threading.Event())
    sample = _events(outbox)[1].body
    assert isinstance(sample, Sample)
    assert sample.reason is Reason.DISAGREES


def test_only_the_wanted_share_is_shadowed(predictor: Predictor, outbox: Outbox, tmp_path: Path) -> None:
    slot = Slot(_inverted(tmp_path), shadow=predictor, watch=Watch())
    _loop(_frames(quadrant_images(20)), slot, outbox, shadow_share=0.0).run(threading.Event())
    assert {reading.shadow_label for reading in _readings(outbox)} == {None}


def test_stopped_loop_ends_without_a_model(outbox: Outbox) -> None:
    stop = threading.Event()
    stop.set()
    selector = Selector(NOTHING_CHOSEN, rng=random.Random(0))
    loop = InferenceLoop(ListSource(_frames(quadrant_images(1))), Slots(), selector, outbox, shadow_share=1.0, seed=0)
    loop.run(stop)
    assert loop.readings == 0
