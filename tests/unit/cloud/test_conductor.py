import asyncio
import random
import threading

import msgspec
import pytest
import sqlalchemy as sa

from builders import LABELS
from edgeloop.cloud import conductor
from edgeloop.cloud.conductor import Conductor
from edgeloop.cloud.store import analysis, fleet, inbox, rollouts
from edgeloop.contracts.api import AbortRequest, Gate, LabelRequest, RolloutRequest, RolloutView
from edgeloop.contracts.errors import InvalidInput, NotFound, Refused
from edgeloop.contracts.messages import Assignment, SyncRequest, WatchBounds, WatchStats
from edgeloop.contracts.states import Kind, Outcome, RolloutState, UpdateState
from edgeloop.contracts.window import DAY_S, parse_window
from small_cloud import SmallCloud, event, reading, report, sample, until, update_report

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


async def test_start_is_answered_while_its_steps_go_on(cloud: SmallCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    monkeypatch.setattr(conductor, "_PATIENCE_S", 0.01)
    may_go_on, ended = asyncio.Event(), asyncio.Event()

    async def long_step() -> None:
        await may_go_on.wait()
        ended.set()

    monkeypatch.setattr(cloud.conductor, "step", long_step)
    view = await asyncio.wait_for(_start(cloud), 60)
    assert (view.state, ended.is_set()) == (RolloutState.RUNNING, False)
    may_go_on.set()
    await asyncio.wait_for(ended.wait(), 60)


async def test_wave_of_more_devices_than_are_given_it_at_once_is_given_it_in_parts(
    cloud: SmallCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conductor, "_GIVEN_AT_ONCE", 2)
    await cloud.publish()
    names = [f"camera-{number}" for number in range(7)]
    cloud.enrol(*names)
    parts: list[int] = []
    give = cloud.conductor._give

    def noting(connection: sa.Connection, one: rollouts.Open, drifted: dict[str, bool]) -> set[str]:
        parts.append(len(drifted))
        return give(connection, one, drifted)

    monkeypatch.setattr(cloud.conductor, "_give", noting)
    await _start(cloud, waves=("100%",))
    assert parts == [2, 2, 2, 1]
    assert all(cloud.assigned(name) is not None for name in names)


async def test_one_looks_at_a_time(cloud: SmallCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two would look through the same devices, and each hold up writes for it."""
    looks, most = 0, 0
    due = cloud.conductor._due

    def counting(connection: sa.Connection) -> conductor._Due:
        nonlocal looks, most
        looks += 1
        most = max(most, looks)
        threading.Event().wait(0.02)
        found = due(connection)
        looks -= 1
        return found

    monkeypatch.setattr(cloud.conductor, "_due", counting)
    await asyncio.gather(*(cloud.conductor.step() for _ in range(4)))
    assert most == 1


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


async def test_wave_of_which_nobody_came_to_an_end_in_time_aborts(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud, gate=Gate(wave_deadline_s=60.0))
    cloud.clock.now_s += 61.0
    await cloud.conductor.step()
    ended = await _now(cloud, view)
    assert ended.state is RolloutState.ABORTED
    assert ended.reason == "none of 1 devices came to an end within 60 s: a (no answer)"


async def test_straggler_is_left_behind_and_the_next_wave_begins(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud, waves=("2", "100%"), gate=Gate(wave_deadline_s=60.0))
    await _says(cloud, "b", UpdateState.DOWNLOADING)
    await _says(cloud, "a", UpdateState.CONFIRMED)
    cloud.clock.now_s += 61.0
    await _says(cloud, "b", UpdateState.VERIFYING)  # it is heard of, and slow
    now = await _now(cloud, view)
    assert (now.state, now.wave, now.devices[1].outcome) == (RolloutState.RUNNING, 2, Outcome.UNREACHABLE)
    assert now.devices[1].reason == "heard of, but still verifying 61 s after it was told"
    await _confirm_all(cloud, "c", "b")
    ended = await _now(cloud, view)
    assert [device.outcome for device in ended.devices] == [Outcome.CONFIRMED] * 3
    assert (ended.state, ended.reason) == (
        RolloutState.COMPLETED,
        "2 of 3 devices confirmed, 1 could not be reached",
    )


async def test_straggler_that_fails_after_all_counts(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud, waves=("2", "100%"), gate=Gate(wave_deadline_s=60.0))
    await _says(cloud, "a", UpdateState.CONFIRMED)
    cloud.clock.now_s += 61.0
    await _says(cloud, "b", UpdateState.DOWNLOADING)
    await _says(cloud, "b", UpdateState.ROLLED_BACK, reason="errors")
    assert (await _now(cloud, view)).reason == "b rolled_back: errors"


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
    ended = await cloud.conductor.abort(view.rollout_id, AbortRequest(reason="a second thought"))
    assert (ended.state, ended.reason) == (RolloutState.ABORTED, "a second thought")
    assert _given(cloud, "a").bundle == "tiny@1.0.0"


async def test_rollout_that_is_over_cannot_be_aborted(cloud: SmallCloud) -> None:
    view = await _second_in_two_waves(cloud)
    await cloud.conductor.abort(view.rollout_id, AbortRequest(reason="once"))
    with pytest.raises(Refused, match="aborted already"):
        await cloud.conductor.abort(view.rollout_id, AbortRequest(reason="twice"))


async def test_rollout_that_never_was_cannot_be_aborted(cloud: SmallCloud) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        await cloud.conductor.abort("nowhere", AbortRequest(reason="why"))


async def test_late_word_on_an_aborted_rollout_changes_nothing(cloud: SmallCloud) -> None:
    view = await _second_in_two_waves(cloud)
    given = _given(cloud, "a")
    await cloud.conductor.abort(view.rollout_id, AbortRequest(reason="a second thought"))
    await _says(cloud, "a", UpdateState.CONFIRMED, about=given)
    assert ((await _now(cloud, view)).state, _given(cloud, "a").bundle) == (RolloutState.ABORTED, "tiny@1.0.0")


# ---- one after another


async def _two(cloud: SmallCloud) -> tuple[RolloutView, RolloutView]:
    """Rollouts of 1.1.0 and 1.2.0 over three devices with 1.0.0, one started after the other."""
    await cloud.publish("1.2.0")
    older = await _second_in_two_waves(cloud)
    cloud.clock.now_s += 1.0
    return older, await _start(cloud, "tiny@1.2.0", waves=("100%",))


async def test_second_rollout_waits_behind_the_first(cloud: SmallCloud) -> None:
    older, newer = await _two(cloud)
    assert newer.state is RolloutState.QUEUED
    assert {device.behind for device in newer.devices} == {older.rollout_id}
    assert [_given(cloud, name).bundle for name in THREE] == ["tiny@1.1.0", "tiny@1.0.0", "tiny@1.0.0"]


async def test_device_takes_the_second_as_soon_as_it_is_done_with_the_first(cloud: SmallCloud) -> None:
    older, newer = await _two(cloud)
    await _says(cloud, "a", UpdateState.CONFIRMED)
    assert [_given(cloud, name).bundle for name in THREE] == ["tiny@1.2.0", "tiny@1.1.0", "tiny@1.1.0"]
    assert [device.behind for device in (await _now(cloud, newer)).devices] == [
        None,
        older.rollout_id,
        older.rollout_id,
    ]


async def test_both_rollouts_complete_one_device_after_another(cloud: SmallCloud) -> None:
    older, newer = await _two(cloud)
    for name in THREE:
        await _says(cloud, name, UpdateState.CONFIRMED)
    for name in THREE:
        await _says(cloud, name, UpdateState.CONFIRMED)
    ends = [await _now(cloud, view) for view in (older, newer)]
    assert [end.reason for end in ends] == ["3 of 3 devices confirmed"] * 2


async def test_waiting_for_an_older_rollout_counts_against_no_deadline(cloud: SmallCloud) -> None:
    await cloud.publish("1.2.0")
    await _second_in_two_waves(cloud)
    cloud.clock.now_s += 1.0
    newer = await _start(cloud, "tiny@1.2.0", waves=("100%",), gate=Gate(wave_deadline_s=60.0))
    cloud.clock.now_s += 1000.0
    await cloud.conductor.step()
    assert (await _now(cloud, newer)).state is RolloutState.QUEUED
    await _says(cloud, "a", UpdateState.CONFIRMED)
    cloud.clock.now_s += 59.0
    await cloud.conductor.step()
    assert (await _now(cloud, newer)).state is RolloutState.RUNNING


async def test_end_of_the_first_sets_its_devices_free(cloud: SmallCloud) -> None:
    older, newer = await _two(cloud)
    await cloud.conductor.abort(older.rollout_id, AbortRequest(reason="a second thought"))
    assert [_given(cloud, name).rollout_id for name in THREE] == [newer.rollout_id] * 3


async def test_abort_of_the_first_leaves_devices_that_have_the_second(cloud: SmallCloud) -> None:
    older, newer = await _two(cloud)
    await _says(cloud, "a", UpdateState.CONFIRMED)
    await cloud.conductor.abort(older.rollout_id, AbortRequest(reason="a second thought"))
    assert _given(cloud, "a").rollout_id == newer.rollout_id


async def test_abort_wants_what_ran_and_not_what_had_failed(cloud: SmallCloud) -> None:
    await cloud.publish("1.2.0")
    older = await _second_in_two_waves(cloud)
    await cloud.conductor.abort(older.rollout_id, AbortRequest(reason="not this one"))
    failed = await _start(cloud, "tiny@1.1.0", waves=("100%",), gate=Gate(max_failed=3))
    await _says(cloud, "a", UpdateState.ROLLED_BACK)
    await _confirm_all(cloud, "b", "c")
    assert (await _now(cloud, failed)).state is RolloutState.COMPLETED
    newest = await _start(cloud, "tiny@1.2.0", waves=("100%",))
    await cloud.conductor.abort(newest.rollout_id, AbortRequest(reason="neither"))
    assert [_given(cloud, name).bundle for name in THREE] == ["tiny@1.0.0", "tiny@1.1.0", "tiny@1.1.0"]


# ---- paused


async def test_paused_rollout_begins_no_wave_until_it_is_resumed(cloud: SmallCloud) -> None:
    view = await _second_in_two_waves(cloud)
    assert (await cloud.conductor.pause(view.rollout_id)).state is RolloutState.PAUSED
    await _says(cloud, "a", UpdateState.CONFIRMED)
    assert (await _now(cloud, view)).wave == 1
    assert (await cloud.conductor.resume(view.rollout_id)).wave == 2


async def test_deadline_stands_still_while_a_rollout_is_paused(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a")
    view = await _start(cloud, gate=Gate(wave_deadline_s=60.0))
    cloud.clock.now_s += 50.0
    await cloud.conductor.pause(view.rollout_id)
    cloud.clock.now_s += 500.0
    await cloud.conductor.step()
    await cloud.conductor.resume(view.rollout_id)
    cloud.clock.now_s += 9.0
    await cloud.conductor.step()
    assert (await _now(cloud, view)).state is RolloutState.RUNNING
    cloud.clock.now_s += 2.0
    await cloud.conductor.step()
    assert (await _now(cloud, view)).state is RolloutState.ABORTED


async def test_paused_rollout_still_stops_by_itself(cloud: SmallCloud) -> None:
    view = await _second_in_two_waves(cloud)
    await cloud.conductor.pause(view.rollout_id)
    await _says(cloud, "a", UpdateState.ROLLED_BACK)
    assert (await _now(cloud, view)).state is RolloutState.ABORTED


async def test_silence_is_judged_from_where_it_stood_before_the_pause(cloud: SmallCloud) -> None:
    view = await _second_in_two_waves(cloud)
    await _says(cloud, "a", UpdateState.ACTIVE)
    cloud.clock.now_s += 1000.0
    await cloud.conductor.pause(view.rollout_id)
    cloud.clock.now_s += DAY_S
    await cloud.conductor.step()
    paused = await _now(cloud, view)
    assert (paused.state, paused.devices[0].outcome) == (RolloutState.PAUSED, None)
    await cloud.conductor.resume(view.rollout_id)
    cloud.clock.now_s += 799.0
    await cloud.conductor.step()
    assert (await _now(cloud, view)).state is RolloutState.RUNNING
    cloud.clock.now_s += 2.0
    await cloud.conductor.step()
    assert (await _now(cloud, view)).state is RolloutState.ABORTED


async def test_pausing_twice_and_resuming_what_runs_are_refused(cloud: SmallCloud) -> None:
    view = await _second_in_two_waves(cloud)
    with pytest.raises(Refused, match="running, not paused"):
        await cloud.conductor.resume(view.rollout_id)
    await cloud.conductor.pause(view.rollout_id)
    with pytest.raises(Refused, match="paused already"):
        await cloud.conductor.pause(view.rollout_id)


# ---- out of reach, and back


async def _silent(cloud: SmallCloud, *, for_s: float = 1801.0) -> RolloutView:
    """A rollout over a (heard of) and b (silent)."""
    await cloud.publish()
    cloud.enrol("a", "b")
    view = await _start(cloud, waves=("100%",))
    cloud.clock.now_s += for_s
    await _says(cloud, "a", UpdateState.CONFIRMED)
    return view


async def test_silent_device_is_left_behind_after_a_stated_time(cloud: SmallCloud) -> None:
    ended = await _now(cloud, await _silent(cloud))
    assert (ended.state, ended.reason) == (
        RolloutState.COMPLETED,
        "1 of 2 devices confirmed, 1 could not be reached",
    )
    lost = ended.devices[1]
    assert (lost.outcome, lost.reason) == (Outcome.UNREACHABLE, "not heard of for 1801 s")


async def test_silent_device_is_waited_for_until_then(cloud: SmallCloud) -> None:
    assert (await _now(cloud, await _silent(cloud, for_s=1799.0))).state is RolloutState.RUNNING


async def test_device_that_comes_back_is_taken_up_again(cloud: SmallCloud) -> None:
    view = await _silent(cloud)
    await cloud.hub.sync("b", SyncRequest(reports=(report("b"),)))
    await cloud.conductor.step()
    assert (await _now(cloud, view)).devices[1].outcome is None
    await _says(cloud, "b", UpdateState.CONFIRMED)
    assert (await _now(cloud, view)).devices[1].outcome is Outcome.CONFIRMED


async def test_device_that_comes_back_in_a_running_rollout_is_waited_for_again(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol(*THREE)
    view = await _start(cloud, waves=("2", "100%"))
    cloud.clock.now_s += 1801.0
    await _says(cloud, "a", UpdateState.CONFIRMED)
    assert (await _now(cloud, view)).wave == 2
    await _says(cloud, "b", UpdateState.DOWNLOADING)
    await _says(cloud, "c", UpdateState.CONFIRMED)
    assert (await _now(cloud, view)).state is RolloutState.RUNNING
    await _says(cloud, "b", UpdateState.REFUSED, reason="no room")
    assert (await _now(cloud, view)).state is RolloutState.ABORTED


async def test_device_that_is_heard_of_but_does_not_move_on_is_left_behind(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a", "b")
    view = await _start(cloud, waves=("100%",), gate=Gate(stuck_after_s=100.0))
    await _says(cloud, "b", UpdateState.DOWNLOADING)
    await _says(cloud, "a", UpdateState.CONFIRMED)
    cloud.clock.now_s += 101.0
    await _says(cloud, "b", UpdateState.DOWNLOADING)
    ended = await _now(cloud, view)
    assert (ended.devices[1].outcome, ended.devices[1].reason) == (
        Outcome.UNREACHABLE,
        "heard of, but downloading for 101 s",
    )


@pytest.mark.parametrize("state", [UpdateState.ACCEPTING, UpdateState.ACTIVE])
async def test_device_that_falls_silent_with_the_new_version_stops_the_rollout(
    cloud: SmallCloud, state: UpdateState
) -> None:
    view = await _second_in_two_waves(cloud)
    await _says(cloud, "a", state)
    cloud.clock.now_s += 1801.0
    await cloud.conductor.step()
    ended = await _now(cloud, view)
    assert ended.state is RolloutState.ABORTED
    assert ended.reason == f"a ran it ({state}) and came to no end: not heard of for 1801 s"
    assert (ended.devices[0].outcome, _given(cloud, "a").bundle) == (Outcome.UNREACHABLE, "tiny@1.0.0")


async def test_nobody_is_silent_while_the_cloud_was_away(cloud: SmallCloud) -> None:
    view = await _second_in_two_waves(cloud)
    await _says(cloud, "a", UpdateState.ACTIVE)
    cloud.clock.now_s += 7200.0  # nobody listened
    again = Conductor(cloud.database, cloud.waker, clock=cloud.clock)
    await again.step()
    assert (await _now(cloud, view)).devices[0].outcome is None
    cloud.clock.now_s += 1801.0
    await again.step()
    assert (await _now(cloud, view)).state is RolloutState.ABORTED


@pytest.mark.parametrize("state", [RolloutState.RUNNING, RolloutState.PAUSED])
async def test_nobody_is_stuck_while_the_cloud_was_away_for_days(cloud: SmallCloud, state: RolloutState) -> None:
    view = await _second_in_two_waves(cloud)
    await _says(cloud, "a", UpdateState.ACTIVE)
    if state is RolloutState.PAUSED:
        await cloud.conductor.pause(view.rollout_id)
    cloud.clock.now_s += 2 * DAY_S  # nobody listened, or it is of a backup that old
    again = Conductor(cloud.database, cloud.waker, clock=cloud.clock)
    await again.step()
    now = await _now(cloud, view)
    assert (now.state, now.devices[0].outcome) == (state, None)


async def test_deadlines_end_after_a_clock_that_was_wrong_is_corrected(cloud: SmallCloud) -> None:
    await cloud.publish("1.0.0")
    await cloud.publish("1.1.0")
    cloud.enrol("a", "b")
    cloud.clock.now_s += 14 * 365 * DAY_S
    view = await _start(cloud, waves=("100%",))
    await _says(cloud, "a", UpdateState.CONFIRMED)
    await _says(cloud, "b", UpdateState.DOWNLOADING)
    cloud.clock.now_s += 1.0
    paused = await _start(cloud, "tiny@1.1.0", waves=("100%",))
    await cloud.conductor.pause(paused.rollout_id)
    cloud.clock.now_s -= 14 * 365 * DAY_S
    await cloud.conductor.step()
    assert (await _now(cloud, view)).state is RolloutState.RUNNING, "it counts from now on"
    cloud.clock.now_s += 1801.0
    await cloud.conductor.step()
    assert (await _now(cloud, view)).reason == "1 of 2 devices confirmed, 1 could not be reached"
    resumed = await cloud.conductor.resume(paused.rollout_id)
    assert [device.since_s for device in resumed.devices if device.outcome is None] == [cloud.clock.now_s] * 2


async def test_no_device_is_in_progress_after_an_abort(cloud: SmallCloud) -> None:
    await _second_in_two_waves(cloud)
    await _says(cloud, "a", UpdateState.CONFIRMED)
    await _says(cloud, "b", UpdateState.ACTIVE)
    (view,) = [one for one in await cloud.database.read(rollouts.list_rollouts) if not one.state.is_final]
    ended = await cloud.conductor.abort(view.rollout_id, AbortRequest(reason="enough"))
    assert [device.outcome for device in ended.devices] == [Outcome.CONFIRMED, Outcome.ROLLED_BACK, Outcome.REFUSED]


async def test_abort_that_keeps_lets_devices_that_began_go_on(cloud: SmallCloud) -> None:
    view = await _second_in_two_waves(cloud)
    await _says(cloud, "a", UpdateState.ACTIVE)
    ended = await cloud.conductor.abort(view.rollout_id, AbortRequest(reason="enough", keep=True))
    assert (_given(cloud, "a").bundle, ended.devices[0].outcome) == ("tiny@1.1.0", None)
    await _says(cloud, "a", UpdateState.CONFIRMED)
    now = await _now(cloud, view)
    assert [device.outcome for device in now.devices] == [Outcome.CONFIRMED, None, None]
    assert [_given(cloud, name).bundle for name in ("b", "c")] == ["tiny@1.0.0", "tiny@1.0.0"]


async def test_view_tells_what_a_device_counts_on_watch(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a")
    view = await _start(cloud)
    stats = WatchStats(readings=7, compared=7, disagreements=1)
    update = msgspec.structs.replace(update_report(_given(cloud, "a"), UpdateState.ACTIVE), watch=stats)
    await cloud.hub.sync("a", SyncRequest(reports=(report("a", 1, update=update),)))
    assert (await _now(cloud, view)).devices[0].watch == stats


# ---- whom, and when


async def test_group_is_chosen_by_several_labels(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a", labels={"site": "north", "kind": "cam"})
    cloud.enrol("b", labels={"site": "north", "kind": "mic"})
    cloud.enrol("c", labels={"site": "south", "kind": "cam"})
    view = await _start(cloud, group="site=north,kind=cam")
    assert [device.device_id for device in view.devices] == ["a"]


async def test_revoked_device_is_in_no_group(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a", "b")
    cloud.database.write_now(lambda c: fleet.revoke(c, "a", now_s=cloud.clock()))
    assert [device.device_id for device in (await _start(cloud)).devices] == ["b"]


async def test_maintenance_window_goes_with_the_assignment(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a")
    window = parse_window("01:00-05:00 utc")
    view = await _start(cloud, window=window)
    assert (_given(cloud, "a").window, view.window) == (window, window)


# ---- labelled samples


async def _labelled(cloud: SmallCloud, name: str, bundle: str, *, right: int, of: int, epoch: int) -> None:
    """A device's samples under a version, with what people say of them."""
    events = []
    for index in range(of):
        body = reading(LABELS[0], bundle=bundle)
        events.append(event(2 * index + 1, body, device_id=name, epoch=epoch))
        events.append(event(2 * index + 2, sample(), device_id=name, epoch=epoch))
    await cloud.database.write(lambda c: inbox.add_events(c, tuple(events)))
    for index in range(of):
        said = LabelRequest(label=LABELS[0] if index < right else LABELS[1], by="a person")
        await cloud.database.write(
            lambda c, i=index, s=said: inbox.set_label(c, f"{name}.{epoch}.{2 * i + 2}", s, now_s=cloud.clock())
        )


@pytest.mark.parametrize(
    ("right", "gate", "state"),
    [
        (20, Gate(), RolloutState.ABORTED),
        (38, Gate(), RolloutState.RUNNING),
        (20, Gate(min_labelled=41), RolloutState.RUNNING),
        (20, Gate(max_accuracy_drop=None), RolloutState.RUNNING),
    ],
    ids=["worse", "as good", "too few", "not judged"],
)
async def test_labelled_samples_that_speak_against_the_new_version_end_its_rollout(
    cloud: SmallCloud, right: int, gate: Gate, state: RolloutState
) -> None:
    await cloud.publish("1.0.0")
    await cloud.publish("1.1.0")
    cloud.enrol("a", "b")
    await _start(cloud, waves=("100%",))
    await _confirm_all(cloud, "a", "b")
    await _labelled(cloud, "a", "tiny@1.0.0", right=39, of=40, epoch=1)
    await _labelled(cloud, "b", "tiny@1.0.0", right=0, of=40, epoch=1)  # which was not given the new one yet
    view = await _start(cloud, "tiny@1.1.0", gate=gate)
    await _labelled(cloud, "a", "tiny@1.1.0", right=right, of=40, epoch=2)
    await cloud.conductor.step()
    now = await _now(cloud, view)
    assert now.state is state
    assert ("labelled samples" in now.reason) == (state is RolloutState.ABORTED)


# ---- a version that is bad for 30 % of 200 devices


IN_FLIGHT = 20
"""Devices that report how it went between two looks of the conductor."""


async def _roll_out_to_200(
    cloud: SmallCloud, gate: Gate, *, seed: int, bad_state: UpdateState = UpdateState.ROLLED_BACK
) -> tuple[RolloutView, int, int]:
    """Its end; how many devices the bad version was put to work on; and how many of them it was bad for."""
    await cloud.publish("1.0.0")
    await cloud.publish("1.1.0")
    names = [f"d{index:03}" for index in range(200)]
    cloud.enrol(*names)
    bad = set(random.Random(seed).sample(names, 60))
    view = await _start(cloud, "tiny@1.1.0", waves=("5%", "25%", "100%"), gate=gate)
    ran: set[str] = set()
    for _ in range(100):
        given = [(name, cloud.assigned(name)) for name in names if name not in ran]
        due = [(name, found) for name, found in given if found is not None][:IN_FLIGHT]
        for name, found in due:
            ran.add(name)
            state = bad_state if name in bad else UpdateState.CONFIRMED
            said = report(name, found.generation, update=update_report(found, state))
            await cloud.hub.sync(name, SyncRequest(reports=(said,)))
        await cloud.conductor.step()
        if not due:
            cloud.clock.now_s += 1801.0
            await cloud.conductor.step()
        if (await _now(cloud, view)).state.is_final:
            break
    return await _now(cloud, view), len(ran), len(ran & bad)


@pytest.mark.parametrize("seed", range(4))
async def test_rollout_of_a_version_that_is_bad_for_many_stops_by_itself(cloud: SmallCloud, seed: int) -> None:
    view, ran, hurt = await _roll_out_to_200(cloud, Gate(), seed=seed)
    assert view.state is RolloutState.ABORTED
    assert 1 <= hurt <= ran <= view.waves[0] + IN_FLIGHT


@pytest.mark.parametrize("seed", range(4))
async def test_rollout_of_a_version_that_is_bad_for_many_by_hanging_stops_by_itself(
    cloud: SmallCloud, seed: int
) -> None:
    """Where it is bad, the device puts it to work and is never heard of again."""
    view, ran, hurt = await _roll_out_to_200(cloud, Gate(), seed=seed, bad_state=UpdateState.ACTIVE)
    assert (view.state, "came to no end" in view.reason) == (RolloutState.ABORTED, True)
    assert 1 <= hurt <= ran <= view.waves[0] + IN_FLIGHT


async def test_control_without_gates_a_version_that_hangs_reaches_everybody(cloud: SmallCloud) -> None:
    view, ran, hurt = await _roll_out_to_200(cloud, Gate(max_failed=200), seed=0, bad_state=UpdateState.ACTIVE)
    assert (view.state, ran, hurt) == (RolloutState.COMPLETED, 200, 60)
    assert view.reason == "140 of 200 devices confirmed, 60 fell silent with it"


async def test_without_gates_it_reaches_everybody(cloud: SmallCloud) -> None:
    view, ran, hurt = await _roll_out_to_200(cloud, Gate(max_failed=200), seed=0)
    assert (view.state, ran, hurt) == (RolloutState.COMPLETED, 200, 60)


# ---- what may not begin


async def test_second_rollout_on_other_devices_may_begin(cloud: SmallCloud) -> None:
    await cloud.publish()
    cloud.enrol("a", labels={"site": "hall"})
    cloud.enrol("b", labels={"site": "yard"})
    await _start(cloud, group="site=hall")
    assert (await _start(cloud, group="site=yard")).state is RolloutState.RUNNING


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


async def test_who_is_spared_is_found_out_before_the_write(cloud: SmallCloud) -> None:
    """While the one writer goes over history, no device's report is taken."""
    reading_threads: set[str] = set()

    @sa.event.listens_for(cloud.database.engine, "before_cursor_execute")
    def note(_: object, cursor: object, statement: str, *more: object) -> None:
        if "FROM events" in statement and "novelty" in statement:
            reading_threads.add(threading.current_thread().name)

    assert await _with_drift(cloud, Gate(watch=WatchBounds(max_disagreement=0.2))) == {"a": None, "b": 0.2}
    assert reading_threads
    assert "cloud-writer" not in reading_threads


async def test_only_the_newest_readings_are_looked_at(cloud: SmallCloud) -> None:
    cloud.enrol("a")
    await cloud.hub.sync("a", SyncRequest(reports=(report("a", active="tiny@1.0.0"),)))
    for novelty, first in ((3.0, 1), (0.1, 41)):
        seen = tuple(event(first + index, reading(novelty=novelty), device_id="a") for index in range(40))
        await cloud.database.write(lambda c, seen=seen: inbox.add_events(c, seen))
    by_last = {
        last: cloud.database.read_now(lambda c, last=last: analysis.drifting(c, ["a", "nobody"], last=last))
        for last in (40, 80)
    }
    assert by_last == {40: {"a": False, "nobody": False}, 80: {"a": True, "nobody": False}}


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
