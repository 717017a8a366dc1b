import math

import msgspec
import pytest

from edgeloop.cloud.store.tables import events, samples
from edgeloop.contracts.messages import Alert, Event, SendRequest
from edgeloop.hub import batches
from edgeloop.hub.batches import sort_out
from small_cloud import event, reading, sample


def _sorted(*given: Event) -> tuple[list[int], list[tuple[int, str]]]:
    """Sequences that were taken; places and reasons of those that were not."""
    taken, rejected = sort_out(SendRequest(events=given), "gateway", lambda name: name != "stranger")
    return [one.sequence for one in taken], [(one.index, one.reason) for one in rejected]


def test_what_can_be_kept_is_taken() -> None:
    assert _sorted(event(1), event(2, sample()), event(3, Alert(what="w", detail="d\0"))) == ([1, 2, 3], [])


def test_event_of_a_device_that_the_sender_does_not_carry_is_rejected() -> None:
    taken, ((index, reason),) = _sorted(event(1), event(2, device_id="stranger"))
    assert (taken, index) == ([1], 1)
    assert "stranger" in reason


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_number_that_is_not_finite_is_rejected(number: float) -> None:
    taken, ((index, reason),) = _sorted(event(1, reading(novelty=number)), event(2))
    assert (taken, index, reason) == ([2], 0, "a number of the prediction is not finite")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (reading("a\0b"), "label holds a NUL"),
        (reading(bundle="tiny@1.0.0\0"), "bundle holds a NUL"),
        (sample(media="image/\0"), "media type holds a NUL"),
        (msgspec.structs.replace(sample(), source="\0"), "source holds a NUL"),
        (reading("x" * 201), "label is 201 characters long; at most 200"),
        (reading(bundle="x" * 101), "bundle is 101 characters long; at most 100"),
        (sample(media="x" * 65), "media type is 65 characters long; at most 64"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_text_that_a_database_cannot_keep_is_rejected_alone(body: object, what: str) -> None:
    taken, ((index, reason),) = _sorted(event(1), event(2, body), event(3))  # type: ignore[arg-type]
    assert (taken, index) == ([1, 3], 1)
    assert what in reason


def test_longest_texts_are_taken() -> None:
    long = (reading("ü" * 200, bundle="x" * 100), sample(media="x" * 64))
    assert _sorted(*(event(index, body) for index, body in enumerate(long, 1))) == ([1, 2], [])


def test_bounds_are_the_tables_own() -> None:
    lengths = (events.c.label.type.length, events.c.bundle.type.length, samples.c.media.type.length)  # type: ignore[attr-defined]
    assert lengths == (batches._MOST_LABEL, batches._MOST_BUNDLE, batches._MOST_MEDIA)
