import io

import pytest
from rich.console import Console

from edgeloop.cli.rollout import failures_allowed
from edgeloop.cli.rollout_view import changes, counts, is_done, render
from edgeloop.contracts.api import RolloutDevice, RolloutView
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.messages import WatchStats
from edgeloop.contracts.states import Outcome, RolloutState, UpdateState
from edgeloop.contracts.window import parse_window


def _device(name: str, *, wave: int = 1, **fields: object) -> RolloutDevice:
    known = {"state": None, "reason": "", "since_s": 100.0}
    return RolloutDevice(device_id=name, wave=wave, **(known | fields))  # type: ignore[arg-type]


DEVICES = (
    _device("sound", state=UpdateState.CONFIRMED, outcome=Outcome.CONFIRMED, reason="20 readings on watch"),
    _device("bad", state=UpdateState.ROLLED_BACK, outcome=Outcome.ROLLED_BACK, reason="100% differ"),
    _device("gone", state=UpdateState.DOWNLOADING, outcome=Outcome.UNREACHABLE, reason="not heard of for 1801 s"),
    _device("busy", state=UpdateState.ACTIVE, watch=WatchStats(readings=7, compared=7, disagreements=1)),
    _device("queued", behind="0123", since_s=None),
    _device("later", wave=2, since_s=None),
)


def _view(*devices: RolloutDevice, state: RolloutState = RolloutState.RUNNING, reason: str = "") -> RolloutView:
    return RolloutView(
        rollout_id="cafe",
        bundle="tiny@1.1.0",
        group="site=north,kind=cam",
        waves=(5, 6),
        wave=1,
        state=state,
        reason=reason,
        started_at_s=0.0,
        ended_at_s=None,
        devices=devices or DEVICES,
        window=parse_window("01:00-05:00"),
    )


def _shown(view: RolloutView) -> str:
    out = io.StringIO()
    Console(file=out, width=140).print(render(view, now_s=190.0))
    return out.getvalue()


def test_every_device_is_counted_once_in_plain_words() -> None:
    assert counts(_view()) == {
        "confirmed": 1,
        "rolled_back": 1,
        "unreachable": 1,
        "at work": 1,
        "queued": 1,
        "later": 1,
    }


def test_picture_shows_what_is_worth_a_line_and_why() -> None:
    shown = _shown(_view())
    for said in (
        "tiny@1.1.0 to site=north,kind=cam, running, wave 1 of 2, in the hours 01:00-05:00",
        "100% differ",
        "7 readings on watch, 1 of 7 differ",
        "90 s",
        "not heard of for 1801 s",
        "until rollout 0123 is done with it",
    ):
        assert said in shown
    assert "sound" not in shown


def test_picture_of_a_large_fleet_stays_small() -> None:
    view = _view(*(_device(f"d{index:05}", state=UpdateState.DOWNLOADING) for index in range(10_000)))
    shown = _shown(view)
    assert ("10000 at work" in shown, "and 9980 more" in shown, len(shown.splitlines()) < 40) == (True, True, True)


def test_control_characters_of_a_device_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in _shown(_view(_device("x", outcome=Outcome.REFUSED, reason="\x1b[2J")))


def test_machine_is_told_what_changed_and_nothing_otherwise() -> None:
    before = _view()
    now = _view(*DEVICES[:-1], _device("later", wave=2, state=UpdateState.DOWNLOADING))
    assert changes(before, before) is None
    told = changes(before, now)
    assert told is not None
    assert [device["device_id"] for device in told["changed"]] == ["later"]
    assert len((changes(None, before) or {})["changed"]) == len(DEVICES)


@pytest.mark.parametrize(
    ("state", "devices", "done"),
    [
        (RolloutState.RUNNING, DEVICES[:1], False),
        (RolloutState.COMPLETED, DEVICES[:1], True),
        (RolloutState.ABORTED, DEVICES[:4], False),
        (RolloutState.ABORTED, (*DEVICES[:3], DEVICES[5]), True),
        (RolloutState.PAUSED, DEVICES[:1], False),
    ],
)
def test_following_ends_with_the_rollout_and_its_last_device(
    state: RolloutState, devices: tuple[RolloutDevice, ...], done: bool
) -> None:
    assert is_done(_view(*devices, state=state)) == done


@pytest.mark.parametrize(
    ("text", "expected"), [("0", (0, 0.0)), (" 12 ", (12, 0.0)), ("5%", (0, 0.05)), ("100%", (0, 1.0))]
)
def test_failures_are_allowed_as_a_count_or_a_share(text: str, expected: tuple[int, float]) -> None:
    assert failures_allowed(text) == expected


@pytest.mark.parametrize("text", ["", "%", "-1", "1.5%", "101%", "few", "٣"])
def test_allowance_that_makes_no_sense_is_invalid_input(text: str) -> None:
    with pytest.raises(InvalidInput, match="number of devices"):
        failures_allowed(text)
