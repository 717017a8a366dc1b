import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.cloud.rollout import (
    Abort,
    Complete,
    Decision,
    Hold,
    Member,
    NextWave,
    decide,
    order_devices,
    wave_sizes,
)
from edgeloop.contracts.api import Gate
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.states import UpdateState

C, R, B, A, D = (
    UpdateState.CONFIRMED,
    UpdateState.REFUSED,
    UpdateState.ROLLED_BACK,
    UpdateState.ACTIVE,
    UpdateState.DOWNLOADING,
)
DEADLINE_S = 100.0


def _members(*states: tuple[int, UpdateState | None]) -> tuple[Member, ...]:
    """(wave, state) each."""
    return tuple(
        Member(device_id=f"d{index}", wave=wave, state=state, reason=f"reason {index}")
        for index, (wave, state) in enumerate(states)
    )


def _decide(
    *states: tuple[int, UpdateState | None], wave: int = 1, max_failed: int = 0, age_s: float = 0.0
) -> Decision:
    gate = Gate(max_failed=max_failed, wave_deadline_s=DEADLINE_S)
    return decide(_members(*states), wave=wave, gate=gate, wave_age_s=age_s)


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


@pytest.mark.parametrize(("age_s", "kind"), [(DEADLINE_S, Hold), (DEADLINE_S + 0.1, Abort)])
def test_wave_that_outlives_its_deadline_aborts(age_s: float, kind: type[Decision]) -> None:
    assert isinstance(_decide((1, C), (1, A), age_s=age_s), kind)


def test_deadline_abort_names_who_was_waited_for() -> None:
    decision = _decide((1, C), (1, A), (1, None), age_s=DEADLINE_S + 1)
    assert isinstance(decision, Abort)
    assert "d1 (active), d2 (no answer)" in decision.reason


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
    decision = decide(members, wave=min(wave, last), gate=gate, wave_age_s=age_s)
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
    decision = decide(members, wave=min(wave, last), gate=gate, wave_age_s=age_s)
    assert isinstance(decision, Abort) or failures <= max_failed


@given(states=_anything, wave=st.integers(1, 4), max_failed=st.integers(0, 4))
def test_nothing_is_held_for_ever(states: list[tuple[int, UpdateState | None]], wave: int, max_failed: int) -> None:
    members, last = _whole(states)
    gate = Gate(max_failed=max_failed, wave_deadline_s=DEADLINE_S)
    assert decide(members, wave=min(wave, last), gate=gate, wave_age_s=DEADLINE_S + 1) != Hold()


@given(states=_anything, wave=st.integers(1, 4), max_failed=st.integers(0, 4), age_s=st.floats(0, 300))
def test_next_wave_begins_only_after_everyone_before_it_ended(
    states: list[tuple[int, UpdateState | None]], wave: int, max_failed: int, age_s: float
) -> None:
    members, last = _whole(states)
    now = min(wave, last)
    decision = decide(members, wave=now, gate=Gate(max_failed=max_failed, wave_deadline_s=DEADLINE_S), wave_age_s=age_s)
    if isinstance(decision, NextWave):
        assert decision.wave == now + 1
        assert all(member.state is not None and member.state.is_final for member in members if member.wave <= now)


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
