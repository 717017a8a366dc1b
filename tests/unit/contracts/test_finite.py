"""Every float that a message can hold is looked at, at whatever depth: found by walking the message, not by name."""

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from edgeloop.contracts.finite import are_finite, is_finite
from edgeloop.contracts.messages import DeviceReport, Event, Health, Reading, TrustHealth, UpdateReport, WatchStats
from edgeloop.contracts.prediction import Box, Prediction, Scored
from edgeloop.contracts.states import UpdateState
from small_cloud import event, sample

PREDICTION = Prediction(
    label="a",
    score=0.5,
    margin=0.25,
    top=(Scored("a", 0.5), Scored("b", 0.25)),
    latency_ms=1.0,
    bundle="tiny@1.0.0",
    engine="litert",
    precision="int8",
    energy=-3.0,
    energy_z=0.5,
    novelty=0.75,
    boxes=(Box("a", 0.5, 1.0, 2.0, 3.0, 4.0), Box("b", 0.5, 1.0, 2.0, 3.0, 4.0)),
    vector=(0.5, -0.5),
    at_s=2.0,
)
READING = Reading(source="door", prediction=PREDICTION)
WATCH = WatchStats(latency_p50_ms=1.0, shadow_latency_p50_ms=2.0, score_shift=0.5)
UPDATE = UpdateReport(generation=1, rollout_id="r", bundle="tiny@1.0.0", state=UpdateState.ACTIVE, watch=WATCH)
REPORT = DeviceReport(
    device_id="camera-1", known_generation=1, update=UPDATE, health=Health(trust=TrustHealth(expires_at_s=9.0))
)
MESSAGES = (READING, REPORT, event(1, READING))


def _floats(plain: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the floats of plain data are."""
    if isinstance(plain, float):
        yield at
    elif isinstance(plain, dict | list):
        for key, value in plain.items() if isinstance(plain, dict) else enumerate(plain):
            yield from _floats(value, (*at, key))


def _with(message: Any, at: tuple[Any, ...], number: float) -> Any:
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    within = plain
    for key in at[:-1]:
        within = within[key]
    within[at[-1]] = number
    return msgspec.msgpack.decode(msgspec.msgpack.encode(plain), type=type(message))


PLACES = [
    pytest.param(message, at, id=f"{type(message).__name__}.{'.'.join(map(str, at))}")
    for message in MESSAGES
    for at in _floats(msgspec.msgpack.decode(msgspec.msgpack.encode(message)))
    if at != ("age_s",)  # its own bound turns a NaN down
]


def test_places_are_all_that_there_are() -> None:
    assert len(PLACES) == 2 * (7 + 2 + 10 + 2) + 4


@pytest.mark.parametrize(("message", "at"), PLACES)
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_number_that_is_not_finite_is_seen(message: Any, at: tuple[Any, ...], number: float) -> None:
    other = _with(message, at, number)
    assert is_finite(message)
    assert not is_finite(other)
    assert are_finite([message, message])
    assert not are_finite([message, other])
    assert not are_finite([other, message])


def test_large_numbers_are_finite_though_their_sum_is_not() -> None:
    large = msgspec.structs.replace(PREDICTION, score=1.7e308, energy=1.7e308, vector=(1.7e308, 1.7e308))
    assert is_finite(large)
    assert are_finite([large, large])


def test_infinite_age_is_seen() -> None:
    assert not is_finite(msgspec.structs.replace(REPORT, age_s=math.inf))


def test_infinities_that_cancel_out_are_seen() -> None:
    others = [msgspec.structs.replace(PREDICTION, vector=(number,)) for number in (math.inf, -math.inf)]
    assert not is_finite(msgspec.structs.replace(PREDICTION, vector=(math.inf, -math.inf)))
    assert not are_finite(others)


def test_what_holds_no_number_is_finite() -> None:
    assert is_finite(event(1, sample()))
    assert are_finite([event(1, sample()), event(2, sample())])
    assert are_finite([])
    assert is_finite(Event(device_id="a", epoch=2**62, sequence=1, at_ms=0, body=sample()))
