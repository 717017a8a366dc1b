"""The fleet's rows by themselves: what is stored of a device, and what is made of it."""

import asyncio

import msgspec
import pytest

from edgeloop.cloud.store import analysis, fleet, inbox
from edgeloop.cloud.store.tables import devices
from edgeloop.contracts.api import RolloutRequest
from edgeloop.contracts.errors import Refused
from edgeloop.contracts.messages import EnrolRequest, SendRequest, SyncRequest
from edgeloop.contracts.states import Kind
from small_cloud import SmallCloud, enrol_request, event, report

CAMERA = "camera-1"
SPOILT = {
    "a number that is null": '{"device_id":"camera-1","known_generation":0,"health":{"trust":{"expires_at_s":null}}}',
    "no JSON": "spoilt",
    "a newer form": '{"device_id":"camera-1","known_generation":"later"}',
}


@pytest.mark.parametrize("stored", SPOILT.values(), ids=SPOILT)
def test_stored_report_that_cannot_be_read_hides_nobody(cloud: SmallCloud, stored: str) -> None:
    """As a cloud before this version may have stored one."""
    cloud.enrol(CAMERA, "camera-2")
    asyncio.run(cloud.publish())
    asyncio.run(cloud.hub.send(CAMERA, SendRequest(events=(event(1),))))
    spoil = devices.update().where(devices.c.device_id == CAMERA).values(report=stored)
    cloud.database.write_now(lambda c: c.execute(spoil))
    first, second = cloud.database.read_now(fleet.list_devices)
    assert (first.report, second.unreadable) == (None, "")
    assert "stored report" in first.unreadable
    assert [row.device_id for row in cloud.database.read_now(lambda c: analysis.drift(c, "tiny@1.0.0", last=100))] == [
        CAMERA
    ]
    rollout = asyncio.run(cloud.conductor.start(RolloutRequest(bundle="tiny@1.0.0")))
    assert {one.device_id for one in rollout.devices} == {CAMERA, "camera-2"}
    asyncio.run(cloud.hub.sync(CAMERA, SyncRequest(reports=(report(CAMERA),))))
    assert cloud.database.read_now(lambda c: fleet.get_device(c, CAMERA)).unreadable == ""


def test_readings_that_were_on_their_way_when_their_device_was_revoked_are_not_taken(cloud: SmallCloud) -> None:
    """Its key was good when its request began; the rest of the body came after the revocation."""
    cloud.enrol(CAMERA)
    cloud.database.write_now(lambda c: fleet.revoke(c, CAMERA, now_s=cloud.clock()))
    with pytest.raises(Refused, match="was revoked"):
        asyncio.run(cloud.hub.send(CAMERA, SendRequest(events=(event(1),))))
    assert cloud.database.read_now(inbox.count_events) == []


# ---- who is let in by what


def _enrol(cloud: SmallCloud, request: EnrolRequest) -> None:
    cloud.database.write_now(lambda c: fleet.enrol(c, request, now_s=cloud.clock()))


def _carried(cloud: SmallCloud) -> tuple[EnrolRequest, EnrolRequest]:
    """A device's request that a node carried, and the one by which it moved straight to the cloud afterwards."""
    cloud.enrol("former", kind=Kind.NODE)
    through = msgspec.structs.replace(enrol_request(CAMERA, cloud.join_secret(uses=20)), via="former")
    return through, enrol_request(CAMERA, cloud.join_secret())


def _without_time(request: EnrolRequest) -> EnrolRequest:
    """As an older edgeloop asks, or as somebody shows it who takes the time out."""
    return msgspec.structs.replace(request, fresh=b"", made_at_ms=0)


def test_former_node_does_not_get_a_device_back_by_what_it_carried_once(cloud: SmallCloud) -> None:
    through, straight = _carried(cloud)
    _enrol(cloud, through)
    _enrol(cloud, straight)
    for shown_again in (through, _without_time(through)):
        with pytest.raises(Refused):
            _enrol(cloud, shown_again)
    assert _spoken_for_by(cloud, "former") == {"former"}


def test_node_does_not_get_a_device_by_what_it_held_back(cloud: SmallCloud) -> None:
    held_back, straight = _carried(cloud)
    _enrol(cloud, straight)
    with pytest.raises(Refused, match="asked again since"):
        _enrol(cloud, held_back)
    assert _spoken_for_by(cloud, "former") == {"former"}


def test_repeated_enrolment_outdates_what_was_signed_before_it(cloud: SmallCloud) -> None:
    _enrol(cloud, enrol_request(CAMERA, cloud.join_secret()))
    held_back, again = _carried(cloud)
    _enrol(cloud, again)
    with pytest.raises(Refused, match="asked again since"):
        _enrol(cloud, held_back)


def test_device_moves_with_a_request_of_its_own(cloud: SmallCloud) -> None:
    through, straight = _carried(cloud)
    for one in (through, straight, msgspec.structs.replace(enrol_request(CAMERA, cloud.join_secret()), via="former")):
        _enrol(cloud, one)
    assert _spoken_for_by(cloud, "former") == {"former", CAMERA}


def test_device_that_came_back_is_not_moved_by_what_it_signed_before(cloud: SmallCloud) -> None:
    through, straight = _carried(cloud)
    _enrol(cloud, through)
    cloud.database.write_now(lambda c: fleet.revoke(c, CAMERA, now_s=cloud.clock()))
    cloud.database.write_now(lambda c: fleet.allow_rejoin(c, CAMERA))
    for shown_again in (through, _without_time(through)):
        with pytest.raises(Refused):
            _enrol(cloud, shown_again)
    _enrol(cloud, straight)
    assert _spoken_for_by(cloud, "former") == {"former"}


def test_device_of_an_older_edgeloop_is_let_in_and_stays(cloud: SmallCloud) -> None:
    old = _without_time(enrol_request(CAMERA, cloud.join_secret()))
    _enrol(cloud, old)
    _enrol(cloud, old)
    assert cloud.database.read_now(lambda c: fleet.public_key(c, CAMERA)) is not None


def _spoken_for_by(cloud: SmallCloud, node: str) -> set[str]:
    """For whom a node may speak."""
    return cloud.database.read_now(lambda c: fleet.in_good_standing(c, node))
