import asyncio

import pytest

from edgeloop.cloud.conductor import Conductor
from edgeloop.cloud.store import fleet, inbox, rollouts
from edgeloop.contracts.api import Gate, RolloutRequest, RolloutView
from edgeloop.contracts.errors import InvalidInput, NotFound, Refused
from edgeloop.contracts.messages import Assignment, SyncRequest, WatchBounds
from edgeloop.contracts.states import Kind, RolloutState, UpdateState
from small_cloud import SmallCloud, event, reading, report, until, update_report

pytestmark = pytest.mark.anyio

THREE = ("a", "b", "c")


async def _start(cloud: SmallCloud, bundle: str = "tiny@1.0.0", **wanted: object) -> RolloutView:
    return await cloud.conductor.start(RolloutRequest(bundle=bundle, **wanted))  # type: ignore[arg-type]


def _given(cloud: SmallCloud, name: str) -> Assignment:
    assignment = cloud.assigned(name)
    assert assignment is not None
    return assignment


async def _says(
    cloud: SmallCloud, name: str, state: UpdateState, *, reason: str = "", about: Assignment | None = None
) -> None:
    """A device reports on its newest assignment (or an older one), and the conductor looks."""
    update = update_report(about or _given(cloud, name), state, reason=reason)
    said = report(name, update.generation, update=update)
    await cloud.hub.sync(name, SyncRequest(reports=(said,)))
    await cloud.conductor.step()


async def _now(cloud: SmallCloud, view: RolloutView) -> RolloutView:
    return await cloud.database.read(lambda c: rollouts.get_rollout(c, view.rollout_id))


async def _confirm_all(cloud: SmallCloud, *names: str) -> None:
    for name in names:
        await _says(cloud, name, UpdateState.CONFIRMED)


# ---- the good way


async def test_first_wave_is_assigned_at_once(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    await _start(cloud)
    assert [cloud.assigned(name) is not None for name in THREE] == [True, False, False]


async def test_assignment_says_which_manifest(cloud: SmallCloud) -> None:
    view = await cloud.publish()
    cloud.enrol("a")
    started = await _start(cloud)
    given = _given(cloud, "a")
    assert (given.generation, given.rollout_id, given.bundle) == (1, started.rollout_id, "tiny@1.0.0")
    assert given.manifest_sha256 == view.manifest_sha256


async def test_confirmed_wave_is_followed_by_the_next(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud)
    await _says(cloud, "a", UpdateState.CONFIRMED)
    assert (await _now(cloud, view)).wave == 2
    assert [cloud.assigned(name) is not None for name in THREE] == [True, True, True]


@pytest.mark.parametrize("state", [UpdateState.DOWNLOADING, UpdateState.ACCEPTING, UpdateState.ACTIVE])
async def test_wave_that_is_at_work_is_waited_for(cloud: SmallCloud, state: UpdateState) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud)
    await _says(cloud, "a", state)
    assert (await _now(cloud, view)).wave == 1


async def test_rollout_completes_when_every_device_confirmed(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud)
    await _confirm_all(cloud, *THREE)
    ended = await _now(cloud, view)
    assert (ended.state, ended.reason) == (RolloutState.COMPLETED, "3 of 3 devices confirmed")
    assert ended.ended_at_s == cloud.clock.now_s


async def test_device_named_first_goes_first(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    await _start(cloud, first=("c",))
    assert [cloud.assigned(name) is not None for name in THREE] == [False, False, True]


async def test_group_is_chosen_by_label(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a", labels={"site": "hall"})
    cloud.enrol("b", labels={"site": "yard"})
    view = await _start(cloud, group="site=yard")
    assert [device.device_id for device in view.devices] == ["b"]


async def test_nodes_are_given_no_bundles(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a")
    cloud.enrol("gateway", kind=Kind.NODE)
    view = await _start(cloud)
    assert [device.device_id for device in view.devices] == ["a"]


async def test_waiting_device_is_woken_by_its_assignment(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a")
    with cloud.waker.listening(["a"]) as news:
        await _start(cloud)
        assert news.is_set()


async def test_report_on_another_generation_does_not_count(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud)
    older = Assignment(generation=0, rollout_id=view.rollout_id, bundle="tiny@1.0.0", manifest_sha256="")
    await _says(cloud, "a", UpdateState.CONFIRMED, about=older)
    assert (await _now(cloud, view)).wave == 1


async def test_report_of_another_device_does_not_count(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud)
    await _says(cloud, "b", UpdateState.CONFIRMED, about=_given(cloud, "a"))
    assert (await _now(cloud, view)).wave == 1


# ---- the bad ways


async def test_refusal_aborts_with_the_devices_reason(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud)
    await _says(cloud, "a", UpdateState.REFUSED, reason="the golden samples disagree")
    ended = await _now(cloud, view)
    assert ended.state is RolloutState.ABORTED
    assert "the golden samples disagree" in ended.reason


async def test_later_waves_of_an_aborted_rollout_never_begin(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    await _start(cloud)
    await _says(cloud, "a", UpdateState.ROLLED_BACK)
    assert [cloud.assigned(name) for name in ("b", "c")] == [None, None]


async def _second_in_two_waves(cloud: SmallCloud) -> RolloutView:
    """Version 1.0.0 on every device, then a rollout of 1.1.0."""
    await cloud.publish("1.0.0")
    await cloud.publish("1.1.0")
    cloud.enrol(*THREE)
    await _start(cloud, waves=("100%",))
    await _confirm_all(cloud, *THREE)
    return await _start(cloud, "tiny@1.1.0")


async def test_abort_wants_the_previous_version_again(cloud: SmallCloud) -> None:
    await _second_in_two_waves(cloud)
    await _says(cloud, "a", UpdateState.REFUSED)
    given = _given(cloud, "a")
    assert (given.bundle, given.generation) == ("tiny@1.0.0", 3)


async def test_abort_wakes_the_devices_that_go_back(cloud: SmallCloud) -> None:
    await _second_in_two_waves(cloud)
    with cloud.waker.listening(["a"]) as news:
        await _says(cloud, "a", UpdateState.REFUSED)
        assert news.is_set()


async def test_abort_leaves_confirmed_devices_where_they_are(cloud: SmallCloud) -> None:
    await _second_in_two_waves(cloud)
    await _says(cloud, "a", UpdateState.CONFIRMED)
    await _says(cloud, "b", UpdateState.REFUSED)
    assert [_given(cloud, name).bundle for name in THREE] == ["tiny@1.1.0", "tiny@1.0.0", "tiny@1.0.0"]


async def test_abort_leaves_devices_of_later_waves_alone(cloud: SmallCloud) -> None:
    await _second_in_two_waves(cloud)
    await _says(cloud, "a", UpdateState.REFUSED)
    assert [(_given(cloud, name).bundle, _given(cloud, name).generation) for name in ("b", "c")] == [
        ("tiny@1.0.0", 1),
        ("tiny@1.0.0", 1),
    ]


async def test_device_that_had_nothing_wants_nothing_after_an_abort(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a")
    await _start(cloud)
    await _says(cloud, "a", UpdateState.REFUSED)
    assert cloud.assigned("a") is None
    assert (await cloud.database.read(lambda c: fleet.assigned(c, "a"))).generation == 2


async def test_failures_within_the_gate_let_it_go_on(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud, gate=Gate(max_failed=1))
    await _says(cloud, "a", UpdateState.REFUSED)
    await _confirm_all(cloud, "b", "c")
    ended = await _now(cloud, view)
    assert (ended.state, ended.reason) == (RolloutState.COMPLETED, "2 of 3 devices confirmed")


async def test_wave_that_outlives_its_deadline_aborts(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud, gate=Gate(wave_deadline_s=60.0))
    cloud.clock.now_s += 61.0
    await cloud.conductor.step()
    ended = await _now(cloud, view)
    assert (ended.state, "did not end within 60 s" in ended.reason) == (RolloutState.ABORTED, True)


async def test_each_wave_has_its_own_deadline(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud, gate=Gate(wave_deadline_s=60.0))
    cloud.clock.now_s += 59.0
    await _says(cloud, "a", UpdateState.CONFIRMED)
    cloud.clock.now_s += 59.0
    await cloud.conductor.step()
    assert (await _now(cloud, view)).state is RolloutState.RUNNING


async def test_rollout_is_aborted_by_hand(cloud: SmallCloud) -> None:
    view = await _second_in_two_waves(cloud)
    ended = await cloud.conductor.abort(view.rollout_id, "a second thought")
    assert (ended.state, ended.reason) == (RolloutState.ABORTED, "a second thought")
    assert _given(cloud, "a").bundle == "tiny@1.0.0"


async def test_rollout_that_is_over_cannot_be_aborted(cloud: SmallCloud) -> None:
    view = await _second_in_two_waves(cloud)
    await cloud.conductor.abort(view.rollout_id, "once")
    with pytest.raises(Refused, match="aborted already"):
        await cloud.conductor.abort(view.rollout_id, "twice")


async def test_rollout_that_never_was_cannot_be_aborted(cloud: SmallCloud) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        await cloud.conductor.abort("nowhere", "why")


async def test_late_word_on_an_aborted_rollout_changes_nothing(cloud: SmallCloud) -> None:
    view = await _second_in_two_waves(cloud)
    given = _given(cloud, "a")
    await cloud.conductor.abort(view.rollout_id, "a second thought")
    await _says(cloud, "a", UpdateState.CONFIRMED, about=given)
    assert ((await _now(cloud, view)).state, _given(cloud, "a").bundle) == (RolloutState.ABORTED, "tiny@1.0.0")


# ---- what may not begin


async def test_second_rollout_on_the_same_devices_is_refused(cloud: SmallCloud) -> None:
    await _second_in_two_waves(cloud)
    with pytest.raises(Refused, match="another rollout is at work on a, b, c"):
        await _start(cloud)


async def test_second_rollout_on_other_devices_may_begin(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a", labels={"site": "hall"})
    cloud.enrol("b", labels={"site": "yard"})
    await _start(cloud, group="site=hall")
    assert (await _start(cloud, group="site=yard")).state is RolloutState.RUNNING


async def test_devices_are_free_again_after_an_end(cloud: SmallCloud) -> None:
    view = await _second_in_two_waves(cloud)
    await cloud.conductor.abort(view.rollout_id, "a second thought")
    assert (await _start(cloud, "tiny@1.1.0")).state is RolloutState.RUNNING


async def test_bundle_that_is_not_published_cannot_be_rolled_out(cloud: SmallCloud) -> None:
    cloud.enrol("a")
    with pytest.raises(NotFound, match=r"tiny@1\.0\.0"):
        await _start(cloud)


@pytest.mark.parametrize(
    "wanted",
    [
        {"group": "site"},
        {"group": "site=nowhere"},
        {"first": ("z",)},
        {"waves": ("1",)},
        {"waves": ()},
        {"bundle": "x"},
    ],
    ids=str,
)
async def test_request_that_makes_no_sense_is_invalid_input(cloud: SmallCloud, wanted: dict[str, object]) -> None:
    await cloud.publish()
    cloud.enrol("a")
    with pytest.raises(InvalidInput):
        await _start(cloud, **wanted)  # type: ignore[arg-type]


async def test_refused_start_leaves_no_rollout(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a")
    with pytest.raises(InvalidInput):
        await _start(cloud, waves=("1",))
    assert (await cloud.database.read(rollouts.list_rollouts), cloud.assigned("a")) == ([], None)


async def test_empty_fleet_cannot_be_rolled_out_to(cloud: SmallCloud) -> None:
    await cloud.publish()
    with pytest.raises(InvalidInput, match="no device"):
        await _start(cloud)


# ---- drift


async def _with_drift(cloud: SmallCloud, gate: Gate) -> dict[str, float | None]:
    """Two devices run 1.0.0, "a" sees drifted input; the disagreement bound that each is given with 1.1.0."""
    await cloud.publish("1.0.0")
    await cloud.publish("1.1.0")
    cloud.enrol("a", "b")
    for name, novelty in (("a", 3.0), ("b", 0.1)):
        await cloud.hub.sync(name, SyncRequest(reports=(report(name, active="tiny@1.0.0"),)))
        seen = tuple(event(index + 1, reading(novelty=novelty), device_id=name) for index in range(40))
        await cloud.database.write(lambda c, seen=seen: inbox.add_events(c, seen))
    await _start(cloud, "tiny@1.1.0", waves=("100%",), gate=gate)
    return {name: _given(cloud, name).watch.max_disagreement for name in ("a", "b")}


async def test_drifted_device_is_spared_from_the_disagreement_bound(cloud: SmallCloud) -> None:
    gate = Gate(watch=WatchBounds(max_disagreement=0.2))
    assert await _with_drift(cloud, gate) == {"a": None, "b": 0.2}


async def test_drifted_device_is_not_spared_when_the_gate_says_so(cloud: SmallCloud) -> None:
    gate = Gate(spare_drifted=False, watch=WatchBounds(max_disagreement=0.2))
    assert await _with_drift(cloud, gate) == {"a": 0.2, "b": 0.2}


# ---- the loop


async def test_loop_takes_up_what_was_reported(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a")
    view = await _start(cloud)
    loop = asyncio.create_task(cloud.conductor.run(tick_s=60.0))
    update = update_report(_given(cloud, "a"), UpdateState.CONFIRMED)
    await cloud.hub.sync("a", SyncRequest(reports=(report("a", 1, update=update),)))

    async def completed() -> bool:
        return (await _now(cloud, view)).state is RolloutState.COMPLETED

    await until(completed, "the rollout's end")
    loop.cancel()


async def test_loop_looks_at_deadlines_without_a_nudge(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a")
    view = await _start(cloud, gate=Gate(wave_deadline_s=60.0))
    cloud.clock.now_s += 61.0
    loop = asyncio.create_task(cloud.conductor.run(tick_s=0.01))

    async def aborted() -> bool:
        return (await _now(cloud, view)).state is RolloutState.ABORTED

    await until(aborted, "the deadline's abort")
    loop.cancel()


async def test_new_conductor_goes_on_where_the_old_one_stopped(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud)
    update = update_report(_given(cloud, "a"), UpdateState.CONFIRMED)
    await cloud.hub.sync("a", SyncRequest(reports=(report("a", 1, update=update),)))
    await Conductor(cloud.database, cloud.waker, clock=cloud.clock).step()
    assert (await _now(cloud, view)).wave == 2
