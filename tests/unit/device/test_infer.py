import random
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from torture.here import Here

from bad_models import failing
from builders import LABELS, as_bundle, make_bundle, make_parts, quadrant_images, quadrant_weights
from edgeloop.backoff import Backoff
from edgeloop.contracts.errors import Corrupt, InvalidInput, Unavailable
from edgeloop.contracts.messages import Alert, Body, Event, Reading, Sample
from edgeloop.contracts.output import Consensus
from edgeloop.contracts.states import Reason
from edgeloop.device.config import SelectConfig
from edgeloop.device.infer import InferenceLoop
from edgeloop.device.record import Record
from edgeloop.device.select import Selector
from edgeloop.device.sense import Senses
from edgeloop.device.slots import Slot, Slots
from edgeloop.device.watch import Watch
from edgeloop.runtime.input.images import decode_image, encode_png
from edgeloop.runtime.load import load
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.sources.port import Counts, Frame, FrameError
from edgeloop.transport.outbox import Outbox

NOTHING_CHOSEN = SelectConfig(unsure_share=0.0, novel_share=0.0, audit_share=0.0)
ALL_NOVEL = SelectConfig(unsure_share=0.0, novel_share=1.0, audit_share=0.0, novel_above_std=-1e9)


class ListSource:
    """A FrameSource that ends the loop after its frames."""

    def __init__(self, frames: Iterable[Frame | FrameError], stop: threading.Event) -> None:
        self._frames = list(frames)
        self._stop = stop
        self.counts = Counts()

    def frames(self, stop: threading.Event | None = None) -> Iterator[Frame | FrameError]:
        """See FrameSource.frames."""
        yield from self._frames
        self._stop.set()


@dataclass(frozen=True)
class Run:
    """A loop over some frames, with what ends it."""

    loop: InferenceLoop
    record: Record
    stop: threading.Event

    def to_end(self) -> InferenceLoop:
        """Answer all of them."""
        self.loop.run(self.stop)
        return self.loop


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
def version(tmp_path: Path) -> Here:
    """It computes each input."""
    return Here(load(make_bundle(tmp_path)), cache=False)


@pytest.fixture
def caching(tmp_path: Path) -> Here:
    """It does not compute twice."""
    return Here(load(make_bundle(tmp_path)))


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    opened = Outbox(tmp_path / "outbox.db", "camera-1")
    yield opened
    opened.close()


def _frames(images: NDArray[np.uint8]) -> list[Frame]:
    return [Frame(f"{i:03d}.png", encode_png(image), float(i), "image/png") for i, image in enumerate(images)]


def _broken(name: str = "broken.png") -> Frame:
    return Frame(name, b"this is no image", 0.0, "image/png")


def _loop(
    frames: Iterable[Frame | FrameError],
    slot: Slot | None,
    outbox: Outbox | FullOutbox,
    config: SelectConfig = NOTHING_CHOSEN,
    *,
    shadow_share: float = 1.0,
) -> Run:
    slots = Slots()
    slots.put(slot)
    stop = threading.Event()
    backoff = Backoff(first_s=0.01, longest_s=0.01, draw=lambda: 0.0)
    senses = Senses("list", lambda manifest, after: ListSource(frames, stop), slots, backoff=backoff)
    selector = Selector(config, rng=random.Random(0))
    record = Record(outbox)
    return Run(InferenceLoop(senses, selector, record, shadow_share=shadow_share, seed=0), record, stop)


def _events(outbox: Outbox) -> list[Event]:
    return list(outbox.events())


def _readings(outbox: Outbox) -> list[Reading]:
    return [event.body for event in _events(outbox) if isinstance(event.body, Reading)]


def _inverted(tmp_path: Path, *, cache: bool = False) -> Here:
    """A version that never gives the right label."""
    weights = quadrant_weights(sharpness=-20.0)
    return Here(load(make_bundle(tmp_path, version="1.1.0", weights=weights)), cache=cache)


def test_each_frame_becomes_a_reading(version: Here, outbox: Outbox) -> None:
    _loop(_frames(quadrant_images(8)), Slot(version), outbox).to_end()
    assert [(r.source, r.prediction.label) for r in _readings(outbox)] == [
        (f"{i:03d}.png", LABELS[i % 4]) for i in range(8)
    ]


def test_readings_are_counted(version: Here, outbox: Outbox) -> None:
    loop = _loop(_frames(quadrant_images(8)), Slot(version), outbox).to_end()
    assert (loop.readings, loop.errors, loop.last_frame) == (8, 0, "007.png")


def test_unreadable_frame_does_not_stop_the_loop(version: Here, outbox: Outbox) -> None:
    first, second = _frames(quadrant_images(2))
    _loop([first, _broken(), second], Slot(version), outbox).to_end()
    assert [reading.source for reading in _readings(outbox)] == ["000.png", "001.png"]


def test_unreadable_frame_is_counted(version: Here, outbox: Outbox) -> None:
    loop = _loop([_broken("a.png"), _broken("b.png"), *_frames(quadrant_images(1))], Slot(version), outbox).to_end()
    assert (loop.readings, loop.errors) == (1, 2)


def test_unreadable_frame_counts_against_a_version_on_watch(version: Here, outbox: Outbox) -> None:
    watch = Watch()
    _loop([_broken(), *_frames(quadrant_images(1))], Slot(version, watch=watch), outbox).to_end()
    assert (watch.stats().readings, watch.stats().errors) == (2, 1)


def test_inference_goes_on_with_a_full_outbox(version: Here) -> None:
    loop = _loop(_frames(quadrant_images(5)), Slot(version), FullOutbox()).to_end()
    assert loop.readings == 5


def test_full_outbox_counts_what_was_dropped(version: Here) -> None:
    run = _loop(_frames(quadrant_images(5)), Slot(version), FullOutbox(), ALL_NOVEL)
    run.to_end()
    # A reading and its sample each time, but for the first that still had room.
    assert run.record.dropped == 2 * 4


def test_sample_directly_follows_its_reading(version: Here, outbox: Outbox) -> None:
    frames = _frames(quadrant_images(3))
    _loop(frames, Slot(version), outbox, ALL_NOVEL).to_end()
    events = _events(outbox)
    assert [(type(e.body), e.sequence) for e in events] == [
        (kind, 2 * i + n) for i in range(3) for n, kind in ((1, Reading), (2, Sample))
    ]


def test_sample_is_the_frame_with_its_reason(version: Here, outbox: Outbox) -> None:
    (frame,) = _frames(quadrant_images(1))
    _loop([frame], Slot(version), outbox, ALL_NOVEL).to_end()
    sample = _events(outbox)[1].body
    assert sample == Sample(source="000.png", reason=Reason.NOVEL, media="image/png", data=frame.data)


def test_reading_says_whether_its_sample_was_sent(version: Here, outbox: Outbox) -> None:
    _loop(_frames(quadrant_images(1)), Slot(version), outbox, ALL_NOVEL).to_end()
    _loop(_frames(quadrant_images(1)), Slot(version), outbox).to_end()
    assert [reading.sent_sample for reading in _readings(outbox)] == [True, False]


def test_drift_is_alerted_once(version: Here, outbox: Outbox) -> None:
    inverted = np.asarray(255 - quadrant_images(40), np.uint8)
    _loop(_frames(inverted), Slot(version), outbox).to_end()
    alerts = [event.body for event in _events(outbox) if isinstance(event.body, Alert)]
    assert [alert.what for alert in alerts] == ["drift"]


def test_clean_readings_alert_nobody(version: Here, outbox: Outbox) -> None:
    _loop(_frames(quadrant_images(80, seed=3)), Slot(version), outbox).to_end()
    assert not [event for event in _events(outbox) if isinstance(event.body, Alert)]


def test_shadow_that_agrees_is_counted(version: Here, outbox: Outbox, tmp_path: Path) -> None:
    watch = Watch()
    shadow = Here(load(make_bundle(tmp_path, version="0.9.0")))
    _loop(_frames(quadrant_images(6)), Slot(version, shadow=shadow, watch=watch), outbox).to_end()
    stats = watch.stats()
    assert (stats.readings, stats.disagreements, stats.errors) == (6, 0, 0)
    assert min(stats.latency_p50_ms, stats.shadow_latency_p50_ms) > 0


def test_shadow_that_disagrees_is_counted(version: Here, outbox: Outbox, tmp_path: Path) -> None:
    watch = Watch()
    slot = Slot(_inverted(tmp_path), shadow=version, watch=watch)
    _loop(_frames(quadrant_images(6)), slot, outbox).to_end()
    assert (watch.stats().readings, watch.stats().disagreements) == (6, 6)


def test_what_a_version_on_watch_cannot_answer_is_answered_by_the_one_before(version: Here, outbox: Outbox) -> None:
    bundle = as_bundle(make_parts(version="1.1.0").with_model(failing()))
    watch = Watch()
    slot = Slot(Here(Predictor(bundle, bundle.manifest.variants[0])), shadow=version, watch=watch)
    images = quadrant_images(3)
    images[1] = 0
    loop = _loop(_frames(images), slot, outbox).to_end()
    assert [reading.prediction.bundle for reading in _readings(outbox)] == ["tiny@1.1.0", "tiny@1.0.0", "tiny@1.1.0"]
    assert (watch.stats().readings, watch.stats().errors, loop.errors) == (3, 1, 1)


def test_reading_bears_the_shadows_label(version: Here, outbox: Outbox, tmp_path: Path) -> None:
    slot = Slot(_inverted(tmp_path), shadow=version, watch=Watch())
    _loop(_frames(quadrant_images(4)), slot, outbox).to_end()
    assert [reading.shadow_label for reading in _readings(outbox)] == list(LABELS)


def test_disagreement_with_the_shadow_is_a_reason_to_send(version: Here, outbox: Outbox, tmp_path: Path) -> None:
    config = SelectConfig(unsure_share=1.0, novel_share=0.0, audit_share=0.0)
    slot = Slot(_inverted(tmp_path), shadow=version, watch=Watch())
    _loop(_frames(quadrant_images(1)), slot, outbox, config).to_end()
    sample = _events(outbox)[1].body
    assert isinstance(sample, Sample)
    assert sample.reason is Reason.DISAGREES


def test_only_the_wanted_share_is_shadowed(version: Here, outbox: Outbox, tmp_path: Path) -> None:
    slot = Slot(_inverted(tmp_path), shadow=version, watch=Watch())
    _loop(_frames(quadrant_images(20)), slot, outbox, shadow_share=0.0).to_end()
    assert {reading.shadow_label for reading in _readings(outbox)} == {None}


def test_stopped_loop_ends_without_a_model(outbox: Outbox) -> None:
    run = _loop(_frames(quadrant_images(1)), None, outbox)
    run.stop.set()
    assert run.to_end().readings == 0


def test_answer_that_was_computed_before_is_a_reading_and_no_measurement(caching: Here, outbox: Outbox) -> None:
    watch = Watch()
    (image,) = quadrant_images(1)
    still = _frames(np.stack([image] * 5))
    loop = _loop(still, Slot(caching, watch=watch), outbox).to_end()
    assert [one.prediction.cached for one in _readings(outbox)] == [False, True, True, True, True]
    assert (loop.readings, loop.cached, watch.stats().readings) == (5, 4, 5)
    # The median of what was computed, once, and not of four look-ups.
    assert watch.stats().latency_p50_ms == _readings(outbox)[0].prediction.latency_ms


def test_shadow_answers_from_its_own_memory(caching: Here, outbox: Outbox, tmp_path: Path) -> None:
    watch = Watch()
    first, second = quadrant_images(2)
    slot = Slot(_inverted(tmp_path, cache=True), shadow=caching, watch=watch)
    _loop(_frames(np.stack([first, first, second, first])), slot, outbox).to_end()
    readings = _readings(outbox)
    assert [one.shadow_label for one in readings] == [LABELS[0], LABELS[0], LABELS[1], LABELS[0]]
    assert [one.prediction.cached for one in readings] == [False, True, False, True]
    assert (watch.stats().readings, watch.stats().disagreements) == (4, 4)


def test_device_computes_each_input_when_told_to(version: Here, outbox: Outbox) -> None:
    (image,) = quadrant_images(1)
    _loop(_frames(np.stack([image] * 3)), Slot(version), outbox).to_end()
    assert not any(one.prediction.cached for one in _readings(outbox))


def test_answers_are_smoothed_as_the_manifest_says(outbox: Outbox) -> None:
    parts = make_parts()
    output = msgspec.structs.replace(parts.manifest.output, smoothing=Consensus(of=3, at_least=2))
    bundle = as_bundle(parts.changed(output=output))
    smoothed = Here(Predictor(bundle, bundle.manifest.variants[0]), cache=False)
    images = quadrant_images(2)
    _loop(_frames(images[[0, 0, 1, 1, 1]]), Slot(smoothed), outbox).to_end()
    assert [one.prediction.label for one in _readings(outbox)] == [None, LABELS[0], LABELS[0], LABELS[1], LABELS[1]]


def test_memory_of_a_stream_outlives_the_confirmation_of_its_version(caching: Here, outbox: Outbox) -> None:
    frame, again = _frames(np.stack([quadrant_images(1)[0]] * 2))
    loop = _loop([], Slot(caching), outbox).loop
    loop.take(frame, Slot(caching, watch=Watch()))
    loop.take(again, Slot(caching))
    assert [one.prediction.cached for one in _readings(outbox)] == [False, True]


def test_input_that_could_not_be_had_is_an_error_with_its_reason(version: Here, outbox: Outbox) -> None:
    watch = Watch()
    lost = FrameError("a.png", Corrupt("a.png is damaged"), 0.0)
    loop = _loop([lost, *_frames(quadrant_images(1))], Slot(version, watch=watch), outbox).to_end()
    assert (loop.readings, loop.errors, loop.error_reason) == (1, 1, "a.png: a.png is damaged")
    # A damaged file is not the version's fault.
    assert watch.stats().errors == 0


def test_source_of_another_kind_counts_against_a_version_on_watch(version: Here, outbox: Outbox) -> None:
    watch = Watch()
    wrong = FrameError("clip", InvalidInput("clip gives sound; the bundle takes image"), 0.0)
    _loop([wrong], Slot(version, watch=watch), outbox).to_end()
    assert watch.stats().errors == 1


def test_loose_contact_is_alerted_once(version: Here, outbox: Outbox) -> None:
    lost = [FrameError("door", Unavailable(f"door: lost after {n} s"), float(n), is_lost=True) for n in range(20)]
    loop = _loop(lost, Slot(version), outbox).to_end()
    alerts = [event.body for event in _events(outbox) if isinstance(event.body, Alert)]
    assert alerts == [Alert(what="source", detail="door: lost after 0 s")]
    assert loop.errors == 20


def test_pixels_that_are_sent_are_the_frame_that_was_answered(version: Here, outbox: Outbox) -> None:
    (image,) = quadrant_images(1)
    _loop([Frame("door#000001", image, 0.0, "image/raw")], Slot(version), outbox, ALL_NOVEL).to_end()
    sample = _events(outbox)[1].body
    assert isinstance(sample, Sample)
    assert sample.media == "image/png"
    np.testing.assert_array_equal(decode_image(sample.data, what="sample"), image)
