import os
import time
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.window import DAY_S, Window, parse_window

MIDNIGHT_S = 1_799_971_200.0
"""2027-01-15 00:00 UTC."""


@pytest.mark.parametrize("text", ["01:00-05:00", "22:30-04:00 utc", "00:00-23:59"])
def test_window_is_read_as_it_is_written(text: str) -> None:
    assert str(parse_window(text)) == text


@pytest.mark.parametrize(
    "text", ["", "1:00-5:00", "01:00", "01:00-24:00", "01:60-02:00", "05:00-05:00", "01:00-05:00 cet"]
)
def test_window_that_makes_no_sense_is_invalid_input(text: str) -> None:
    with pytest.raises(InvalidInput, match="window"):
        parse_window(text)


@pytest.mark.parametrize(
    ("text", "at_h", "opens_in_h"),
    [
        ("01:00-05:00 utc", 0.0, 1.0),
        ("01:00-05:00 utc", 1.0, 0.0),
        ("01:00-05:00 utc", 4.999, 0.0),
        ("01:00-05:00 utc", 5.0, 20.0),
        ("22:00-04:00 utc", 23.0, 0.0),
        ("22:00-04:00 utc", 3.0, 0.0),
        ("22:00-04:00 utc", 4.0, 18.0),
        ("22:00-04:00 utc", 12.0, 10.0),
    ],
)
def test_window_opens_every_day(text: str, at_h: float, opens_in_h: float) -> None:
    found = parse_window(text).opens_in_s(MIDNIGHT_S + at_h * 3600)
    assert found == pytest.approx(opens_in_h * 3600, abs=1e-3)


minutes = st.integers(0, 1439)


@given(first=minutes, last=minutes, at_s=st.floats(0.0, 2e9))
def test_window_is_open_when_it_said_it_would_be(first: int, last: int, at_s: float) -> None:
    window = Window(first=first, last=last, utc=True)
    if first == last:
        return
    wait_s = window.opens_in_s(at_s)
    assert 0.0 <= wait_s <= DAY_S
    soon_s = at_s if wait_s == 0 else at_s + wait_s + 0.01
    assert window.opens_in_s(soon_s) == 0.0


@pytest.fixture
def tokyo() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "JST-9"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone of a process is POSIX's")
@pytest.mark.usefixtures("tokyo")
def test_hours_are_the_devices_own_unless_they_are_utc() -> None:
    at_s = MIDNIGHT_S + 18 * 3600  # 03:00 in Tokyo
    opens = [parse_window(text).opens_in_s(at_s) for text in ("02:00-04:00", "02:00-04:00 utc")]
    assert opens == pytest.approx([0.0, 8 * 3600.0])


def test_window_travels_as_json() -> None:
    window = parse_window("22:30-04:00 utc")
    assert msgspec.json.decode(msgspec.json.encode(window), type=Window) == window
