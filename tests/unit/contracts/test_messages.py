import math

import msgspec
import pytest

from edgeloop.contracts.api import RolloutRequest
from edgeloop.contracts.codec import from_json, from_msgpack, to_json, to_msgpack
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.messages import (
    MAX_BATCH_EVENTS,
    MAX_WAIT_S,
    Alert,
    Assignment,
    Event,
    InferRequest,
    Reading,
    Sample,
    SendRequest,
    SyncRequest,
)
from edgeloop.contracts.names import BundleRef
from edgeloop.contracts.prediction import Prediction, Scored
from edgeloop.contracts.states import Reason

PREDICTION = Prediction(
    label="a", score=0.75, margin=0.5, top=(Scored("a", 0.75),), latency_ms=1.0, bundle="tiny@1.0.0",
    engine="litert", precision="int8",
)  # fmt: skip
BODIES = [
    Reading(source="door", prediction=PREDICTION),
    Sample(source="door", reason=Reason.UNSURE, media="image/png", data=bytes(range(256))),
    Alert(what="drift", detail="ä"),
]


def _event(body: object = BODIES[2], **changes: int) -> Event:
    fields = {"device_id": "camera-1", "epoch": 1, "sequence": 1, "at_ms": 0, "body": body} | changes
    return Event(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_event_survives_msgpack(body: object) -> None:
    assert from_msgpack(to_msgpack(_event(body)), Event, what="m") == _event(body)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_event_survives_json(body: object) -> None:
    assert from_json(to_json(_event(body)), Event, what="m") == _event(body)


def test_batch_beyond_the_bound_is_refused() -> None:
    data = to_msgpack(SendRequest(events=(_event(),) * (MAX_BATCH_EVENTS + 1)))
    with pytest.raises(InvalidInput):
        from_msgpack(data, SendRequest, what="m")


def test_sync_that_would_be_held_too_long_is_refused() -> None:
    with pytest.raises(InvalidInput):
        from_msgpack(to_msgpack(SyncRequest(reports=(), wait_s=MAX_WAIT_S + 1)), SyncRequest, what="m")


@pytest.mark.parametrize("changes", [{"sequence": 0}, {"sequence": -1}, {"epoch": -1}], ids=str)
def test_event_number_out_of_range_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        from_msgpack(to_msgpack(_event(**changes)), Event, what="m")


@pytest.mark.parametrize("field", ["sequence", "epoch", "at_ms"])
def test_event_number_that_no_database_can_hold_is_refused(field: str) -> None:
    # SQLite and PostgreSQL integers are signed 64 bit; MessagePack's go one bit further.
    with pytest.raises(InvalidInput):
        from_msgpack(to_msgpack(_event(**{field: 2**63})), Event, what="m")


def test_event_of_an_unknown_kind_is_refused() -> None:
    document = msgspec.to_builtins(_event())
    document["body"]["kind"] = "rumour"
    with pytest.raises(InvalidInput, match="rumour"):
        from_msgpack(msgspec.msgpack.encode(document), Event, what="m")


@pytest.mark.parametrize("deadline_ms", [0, -1, 60_001])
def test_deadline_out_of_range_is_refused(deadline_ms: int) -> None:
    with pytest.raises(InvalidInput):
        from_msgpack(to_msgpack(InferRequest(name="a", data=b"", deadline_ms=deadline_ms)), InferRequest, what="m")


@pytest.mark.parametrize(
    "bounds",
    [
        {"min_readings": -1},
        {"max_error_rate": 1.1},
        {"max_disagreement": -0.1},
        {"max_latency_ratio": 0.0},
        {"max_latency_ratio": math.inf},
        {"max_latency_ratio": math.nan},
        {"latency_floor_ms": -1.0},
        {"deadline_s": 0.0},
        {"deadline_s": 604_801.0},
        {"deadline_s": math.nan},
    ],
    ids=str,
)
def test_watch_that_could_not_be_judged_or_never_ends_is_refused(bounds: dict[str, float]) -> None:
    gate = {"gate": {"watch": bounds}, "bundle": "tiny@1.0.0"}
    with pytest.raises(InvalidInput, match=next(iter(bounds))):
        from_msgpack(msgspec.msgpack.encode(gate), RolloutRequest, what="a rollout")


def test_rollout_without_a_watch_is_taken() -> None:
    gate = {"gate": {"watch": {"min_readings": 0}}, "bundle": "tiny@1.0.0"}
    assert from_msgpack(msgspec.msgpack.encode(gate), RolloutRequest, what="a rollout").gate.watch.min_readings == 0


def test_assignment_names_its_bundle() -> None:
    assignment = Assignment(generation=1, rollout_id="r", bundle="tiny@1.0.0", manifest_sha256="a" * 64)
    assert assignment.ref == BundleRef("tiny", "1.0.0")
