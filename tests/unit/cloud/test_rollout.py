import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.cloud.rollout import (
    Abort,
    Complete,
    Decision,
    Give,
    Hold,
    Labelled,
    Member,
    NextWave,
    Stage,
    Waited,
    accuracy_drop,
    decide,
    labels_of,
    order_devices,
    unreachable,
    wave_sizes,
)
from edgeloop.contracts.api import Gate
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.messages import WatchBounds
from edgeloop.contracts.states import Outcome, UpdateState
from edgeloop.contracts.window import DAY_S

C, R, B, A, D = (
    UpdateState.CONFIRMED,
    UpdateState.REFUSED,
    UpdateState.ROLLED_BACK,
    UpdateState.ACTIVE,
    UpdateState.DOWNLOADING,
)
DEADLINE_S = 100.0


def _members(*states: tuple[int, UpdateState | None]) -> tuple[Member, ...]:
    """(wave, state) each; what they came to follows from their own word."""
    return tuple(
        Member(
            device_id=f"d{index}",
            wave=wave,
            state=state,
            outcome=None if state is None else Outcome.of(state),
            reason=f"reason {index}",
        )
        for index, (wave, state) in enumerate(states)
    )


def _step(members: tuple[Member, ...], gate: Gate | None = None, *, wave: int = 1, age_s: float = 0.0) -> Decision:
    return decide(members, Stage(wave=wave, wave_age_s=age_s), gate or Gate(wave_deadline_s=DEADLINE_S))


def _decide(
    *states: tuple[int, UpdateState | None], wave: int = 1, max_failed: int = 0, age_s: float = 0.0
) -> Decision:
    gate = Gate(max_failed=max_failed, wave_deadline_s=DEADLINE_S)
    return _step(_members(*states), gate, wave=wave, age_s=age_s)


@pytest.mark.parametrize("state", [None, UpdateState.DOWNLOADING, UpdateState.VERIFYING, UpdateState.ACCEPTING, A])
def test_device_that_is_at_work_holds_the_wave(state: UpdateState | None) -> None:
    assert _decide((1, C), (1, state), (2, None)) == Hold()


def test_confirmed_wave_begins_the_next() -> None:
    assert _decide((1, C), (2, None)) == NextWave(2)


def test_last_confirmed_wave_completes() -> None:
    assert isinstance(_decide((1, C), (2, C), wave=2), Complete)


def test_completion_says_how_many_confirmed() -> None:
    decision = _decide((1, C), (1, R), (1, C), max_failed=1)
    assert decision == Complete("2 of 3 devices confirmed")


@pytest.mark.parametrize("state", [R, B])
def test_one_failure_more_than_allowed_aborts(state: UpdateState) -> None:
    assert isinstance(_decide((1, state), (1, None), (2, None)), Abort)


def test_abort_names_the_device_and_its_reason() -> None:
    decision = _decide((1, C), (1, R))
    assert isinstance(decision, Abort)
    assert "d1 refused: reason 1" in decision.reason


def test_abort_says_how_many_more_failed() -> None:
    decision = _decide((1, R), (1, B), (1, R))
    assert isinstance(decision, Abort)
    assert "and 2 more" in decision.reason


def test_failures_within_the_gate_do_not_stop() -> None:
    assert _decide((1, C), (1, R), (2, None), max_failed=1) == NextWave(2)


def test_failures_of_all_waves_count_together() -> None:
    assert isinstance(_decide((1, R), (1, C), (2, R), (2, C), wave=2, max_failed=1), Abort)


def test_failure_aborts_while_others_still_work() -> None:
    assert isinstance(_decide((1, D), (1, R)), Abort)


def test_straggler_ends_nothing_for_the_others() -> None:
    """It is waited for here; that it is left behind at the deadline is `unreachable`'s word."""
    assert _decide(*[(1, C)] * 9_999, (1, D), age_s=DEADLINE_S + 1) == Hold()


def test_wave_that_ended_is_not_held_to_its_deadline() -> None:
    assert _decide((1, C), (2, None), age_s=DEADLINE_S + 1) == NextWave(2)


def test_devices_of_later_waves_are_not_waited_for() -> None:
    assert _decide((1, C), (2, C), (3, None), wave=2) == NextWave(3)


_anything = st.lists(st.tuples(st.integers(1, 4), st.sampled_from([None, *UpdateState])), min_size=1, max_size=12)


def _whole(states: list[tuple[int, UpdateState | None]]) -> tuple[tuple[Member, ...], int]:
    """Members whose waves have no gaps, as `wave_sizes` makes them, and the last wave."""
    numbers = {wave: 1 + index for index, wave in enumerate(sorted({wave for wave, _ in states}))}
    return _members(*((numbers[wave], state) for wave, state in states)), len(numbers)


@given(states=_anything, wave=st.integers(1, 4), max_failed=st.integers(0, 4), age_s=st.floats(0, 300))
def test_rollout_never_completes_while_someone_is_unfinished(
    states: list[tuple[int, UpdateState | None]], wave: int, max_failed: int, age_s: float
) -> None:
    members, last = _whole(states)
    gate = Gate(max_failed=max_failed, wave_deadline_s=DEADLINE_S)
    decision = _step(members, gate, wave=min(wave, last), age_s=age_s)
    unfinished = any(member.state is None or not member.state.is_final for member in members)
    assert not (isinstance(decision, Complete) and unfinished)


@given(states=_anything, wave=st.integers(1, 4), max_failed=st.integers(0, 4), age_s=st.floats(0, 300))
def test_more_failures_than_allowed_always_abort(
    states: list[tuple[int, UpdateState | None]], wave: int, max_failed: int, age_s: float
) -> None:
    members, last = _whole(states)
    begun = [member for member in members if member.wave <= min(wave, last)]
    failures = sum(member.state in (R, B) for member in begun)
    gate = Gate(max_failed=max_failed, wave_deadline_s=DEADLINE_S)
    decision = _step(members, gate, wave=min(wave, last), age_s=age_s)
    assert isinstance(decision, Abort) or failures <= max_failed


def _left_behind(member: Member, gate: Gate, *, age_s: float) -> Member:
    """What becomes of a device that says the same for so long."""
    waited = Waited(state=member.state, for_s=age_s, unmoved_s=age_s, silent_s=0.0)
    if member.outcome is not None or unreachable(waited, gate) is None:
        return member
    return msgspec.structs.replace(member, outcome=Outcome.UNREACHABLE)


@given(states=_anything, wave=st.integers(1, 4), max_failed=st.integers(0, 4))
def test_nothing_is_held_for_ever(states: list[tuple[int, UpdateState | None]], wave: int, max_failed: int) -> None:
    members, last = _whole(states)
    gate = Gate(max_failed=max_failed, wave_deadline_s=DEADLINE_S)
    age_s = max(DEADLINE_S, gate.watch.deadline_s) + 1
    left = tuple(_left_behind(member, gate, age_s=age_s) for member in members)
    assert _step(left, gate, wave=min(wave, last), age_s=age_s) != Hold()


@given(states=_anything, wave=st.integers(1, 4), max_failed=st.integers(0, 4), age_s=st.floats(0, 300))
def test_next_wave_begins_only_after_everyone_before_it_ended(
    states: list[tuple[int, UpdateState | None]], wave: int, max_failed: int, age_s: float
) -> None:
    members, last = _whole(states)
    now = min(wave, last)
    decision = _step(members, Gate(max_failed=max_failed, wave_deadline_s=DEADLINE_S), wave=now, age_s=age_s)
    if isinstance(decision, NextWave):
        assert decision.wave == now + 1
        assert all(member.state is not None and member.state.is_final for member in members if member.wave <= now)


# ---- out of reach


def _lost(*waves: int) -> tuple[Member, ...]:
    return tuple(
        Member(device_id=f"lost{index}", wave=wave, state=D, outcome=Outcome.UNREACHABLE)
        for index, wave in enumerate(waves)
    )


def test_unreachable_device_is_not_waited_for() -> None:
    assert _step((*_members((1, C), (2, None)), *_lost(1))) == NextWave(2)


def test_device_that_never_began_is_no_failure() -> None:
    assert _step((*_members((1, C)), *_lost(1))) == Complete("1 of 2 devices confirmed, 1 could not be reached")


@pytest.mark.parametrize("state", [UpdateState.ACCEPTING, A])
def test_device_that_ran_it_and_came_to_no_end_counts_as_failed(state: UpdateState) -> None:
    hung = Member(device_id="h", wave=1, state=state, outcome=Outcome.UNREACHABLE, reason="not heard of for 1801 s")
    members = (*_members((1, C), (2, None)), hung)
    assert _step(members) == Abort(f"h ran it ({state}) and came to no end: not heard of for 1801 s")
    assert _step(members, Gate(max_failed=1)) == NextWave(2)
    assert _step((*_members((1, C)), hung), Gate(max_failed=1)) == Complete(
        "1 of 2 devices confirmed, 1 fell silent with it"
    )


@pytest.mark.parametrize(("age_s", "kind"), [(DEADLINE_S, Hold), (DEADLINE_S + 1, Abort)])
def test_wave_that_nobody_answered_tells_nothing_and_ends_at_its_deadline(age_s: float, kind: type[Decision]) -> None:
    assert isinstance(_step((*_lost(1, 1), *_members((2, None))), age_s=age_s), kind)


def test_wave_that_nobody_answered_ends_with_who_was_asked() -> None:
    assert _step(_lost(1, 1), age_s=DEADLINE_S + 1) == Abort(
        "none of 2 devices came to an end within 100 s: lost0 (downloading), lost1 (downloading)"
    )


@pytest.mark.parametrize(
    ("state", "for_s", "unmoved_s", "silent_s", "why"),
    [
        (None, 61.0, 61.0, 1e9, "not heard of for 61 s"),
        (D, 61.0, 60.5, 60.2, "not heard of for 60 s"),
        (D, 61.0, 61.0, 1.0, None),
        (D, 61.0, 0.0, 61.0, None),
        (A, 1061.0, 1061.0, 0.0, "heard of, but active for 1061 s"),
        (None, 1061.0, 1061.0, 0.0, "heard of, but without an answer for 1061 s"),
        (UpdateState.WAITING, 61.0, DAY_S + 61, 0.0, None),
        (UpdateState.WAITING, 61.0, DAY_S + 1061, 0.0, f"heard of, but waiting for {DAY_S + 1061:.0f} s"),
        (D, 500.0, 1.0, 0.0, None),
        (D, 501.0, 1.0, 0.0, "heard of, but still downloading 501 s after it was told"),
        (None, 501.0, 501.0, 0.0, "heard of, but still without an answer 501 s after it was told"),
        (A, 501.0, 300.0, 0.0, None),  # its watch has not ended
        (A, 501.0, 301.0, 0.0, "heard of, but still active 501 s after it was told"),
    ],
)
def test_device_is_left_behind_when_it_is_silent_or_stuck_or_late(
    state: UpdateState | None, for_s: float, unmoved_s: float, silent_s: float, why: str | None
) -> None:
    watch = WatchBounds(deadline_s=300.0)
    gate = Gate(unreachable_after_s=60.0, stuck_after_s=1000.0, wave_deadline_s=500.0, watch=watch)
    waited = Waited(state=state, for_s=for_s, unmoved_s=unmoved_s, silent_s=silent_s)
    assert unreachable(waited, gate) == why


@pytest.mark.parametrize(("for_s", "is_left"), [(500.0 + DAY_S, False), (501.0 + DAY_S, True)])
def test_device_with_a_maintenance_window_has_a_day_more(for_s: float, is_left: bool) -> None:
    waited = Waited(state=UpdateState.WAITING, for_s=for_s, unmoved_s=1.0, silent_s=0.0, has_window=True)
    assert (unreachable(waited, Gate(wave_deadline_s=500.0)) is not None) == is_left


# ---- turns


def _waits(wave: int, *, has_turn: bool) -> Member:
    return Member(device_id=f"w{wave}", wave=wave, state=None, is_given=False, has_turn=has_turn)


def test_device_whose_turn_has_come_is_given_the_bundle() -> None:
    assert _step((*_members((1, C)), _waits(1, has_turn=True))) == Give(("w1",))


def test_wave_waits_without_a_deadline_for_a_device_that_an_older_rollout_holds() -> None:
    assert _step((*_members((1, C)), _waits(1, has_turn=False)), age_s=DEADLINE_S + 1) == Hold()


@pytest.mark.parametrize(("has_turn", "expected"), [(True, NextWave(1)), (False, Hold())])
def test_first_wave_begins_when_one_of_its_devices_has_its_turn(has_turn: bool, expected: Decision) -> None:
    assert _step((_waits(1, has_turn=has_turn),), wave=0) == expected


def test_device_that_failed_elsewhere_counts_also_while_others_wait_for_their_turn() -> None:
    assert isinstance(_step((*_members((1, B)), _waits(1, has_turn=False))), Abort)


# ---- paused, and in hours


def _paused(*states: tuple[int, UpdateState | None], age_s: float = 0.0) -> Decision:
    stage = Stage(wave=1, wave_age_s=age_s, is_paused=True)
    return decide(_members(*states), stage, Gate(wave_deadline_s=DEADLINE_S))


def test_paused_rollout_begins_nothing_and_has_no_deadline() -> None:
    assert (_paused((1, C), (2, None)), _paused((1, C)), _paused((1, A), age_s=10 * DEADLINE_S)) == (Hold(),) * 3


def test_paused_rollout_still_stops_by_itself() -> None:
    assert isinstance(_paused((1, B), (2, None)), Abort)


@pytest.mark.parametrize(("age_s", "kind"), [(DEADLINE_S + DAY_S, Hold), (DEADLINE_S + DAY_S + 1, Abort)])
def test_wave_with_a_maintenance_window_has_a_day_more(age_s: float, kind: type[Decision]) -> None:
    stage = Stage(wave=1, wave_age_s=age_s, has_window=True)
    members = _lost(1)
    assert isinstance(decide(members, stage, Gate(wave_deadline_s=DEADLINE_S)), kind)


# ---- failures as a share


@pytest.mark.parametrize(("failed", "kind"), [(10, NextWave), (11, Abort)])
def test_limit_of_failures_may_be_a_share_of_all_devices(failed: int, kind: type[Decision]) -> None:
    members = _members(*[(1, R)] * failed, *[(1, C)] * (100 - failed), *[(2, None)] * 100)
    assert isinstance(_step(members, Gate(max_failed=3, max_failed_share=0.05)), kind)


def test_larger_of_the_two_limits_counts() -> None:
    members = _members(*[(1, R)] * 3, *[(1, C)] * 7)
    assert isinstance(_step(members, Gate(max_failed=3, max_failed_share=0.1)), Complete)


# ---- labelled samples


@pytest.mark.parametrize(
    ("old", "new", "is_worse"),
    [
        ((100, 95), (100, 70), True),
        ((100, 95), (100, 91), False),  # within what is allowed
        ((30, 27), (30, 24), False),  # 10 % worse, but so is one in eight by chance
        ((29, 29), (1000, 0), False),  # too few of the old
        ((1000, 1000), (29, 0), False),  # too few of the new
        ((100, 70), (100, 95), False),
        ((100, 100), (100, 100), False),
        ((100, 0), (100, 0), False),
    ],
)
def test_new_version_is_worse_by_more_than_the_bound_and_than_chance(
    old: tuple[int, int], new: tuple[int, int], is_worse: bool
) -> None:
    gate = Gate(max_accuracy_drop=0.05, min_labelled=30)
    assert (accuracy_drop(Labelled(*old), Labelled(*new), gate) is not None) == is_worse


def test_worse_version_aborts_with_both_accuracies() -> None:
    stage = Stage(wave=1, wave_age_s=0.0)
    found = decide(_members((1, A)), stage, Gate(), old=Labelled(100, 95), new=Labelled(50, 35))
    assert isinstance(found, Abort)
    assert "right on 70% of 50 labelled samples, the version before on 95% of 100" in found.reason


def test_accuracy_is_not_judged_without_a_bound() -> None:
    assert accuracy_drop(Labelled(100, 100), Labelled(100, 0), Gate(max_accuracy_drop=None)) is None


# ---- waves


@pytest.mark.parametrize(
    ("waves", "devices", "sizes"),
    [
        (("1", "100%"), 10, (1, 10)),
        (("1", "25%", "100%"), 10, (1, 3, 10)),
        (("100%",), 7, (7,)),
        (("10%", "50%", "100%"), 3, (1, 2, 3)),
        (("1", "100%"), 1, (1,)),
        (("5", "100%"), 3, (3,)),
        (("1%", "2%", "100%"), 10, (1, 10)),
        ((" 1 ", " 100% "), 4, (1, 4)),
    ],
)
def test_waves_become_cumulative_counts(waves: tuple[str, ...], devices: int, sizes: tuple[int, ...]) -> None:
    assert wave_sizes(waves, devices) == sizes


@pytest.mark.parametrize(
    "waves",
    [
        (),
        ("1",),
        ("50%",),
        ("0", "100%"),
        ("0%", "100%"),
        ("101%", "100%"),
        ("-1", "100%"),
        ("1.5", "100%"),
        ("half", "100%"),
        ("", "100%"),
        ("50%", "10%", "100%"),
        ("8", "2", "100%"),
        ("100%", "1"),
        ("٣", "100%"),
    ],
)
def test_waves_that_make_no_sense_are_invalid_input(waves: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput, match="wave"):
        wave_sizes(waves, 10)


@given(shares=st.lists(st.integers(1, 100), max_size=5), devices=st.integers(1, 1000))
def test_waves_grow_up_to_every_device(shares: list[int], devices: int) -> None:
    sizes = wave_sizes((*(f"{share}%" for share in sorted(shares)), "100%"), devices)
    assert list(sizes) == sorted(set(sizes))
    assert (sizes[0] >= 1, sizes[-1]) == (True, devices)


# ---- order


def test_devices_are_taken_by_id() -> None:
    assert order_devices(["c", "a", "b"], first=()) == ["a", "b", "c"]


def test_devices_named_first_go_first_as_named() -> None:
    assert order_devices(["a", "b", "c", "d"], first=("d", "b")) == ["d", "b", "a", "c"]


def test_device_named_first_twice_goes_once() -> None:
    assert order_devices(["a", "b"], first=("b", "b")) == ["b", "a"]


def test_stranger_named_first_is_invalid_input() -> None:
    with pytest.raises(InvalidInput, match="'z'"):
        order_devices(["a", "b"], first=("z",))


# ---- groups


def test_group_is_of_devices_that_have_all_its_labels() -> None:
    assert (labels_of("all"), labels_of(" site = north , kind=cam")) == ({}, {"site": "north", "kind": "cam"})


@pytest.mark.parametrize("group", ["", "site", "site=", "=north", "site=north,", "site=north,site=south"])
def test_group_that_makes_no_sense_is_invalid_input(group: str) -> None:
    with pytest.raises(InvalidInput, match="group"):
        labels_of(group)
