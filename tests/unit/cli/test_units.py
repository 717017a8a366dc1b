import pytest

from edgeloop.cli.units import parse_duration_s, parse_range, parse_size_bytes
from edgeloop.contracts.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "size_bytes"), [("16KB", 16384), ("1.5MB", 1572864), ("900B", 900), (" 2 gb ", 2**31)]
)
def test_size_is_read_in_units_of_1024(text: str, size_bytes: int) -> None:
    assert parse_size_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["", "16", "KB", "-1KB", "1e3KB", "16 bananas", "1,5MB"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no size"):
        parse_size_bytes(text)


@pytest.mark.parametrize(("text", "duration_s"), [("10min", 600), ("30s", 30), ("2ms", 0.002), ("1.5 h", 5400)])
def test_duration_is_read_in_seconds(text: str, duration_s: float) -> None:
    assert parse_duration_s(text) == pytest.approx(duration_s)


@pytest.mark.parametrize("text", ["", "10", "10m", "2 MS", "-3s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is no duration"):
        parse_duration_s(text)


@pytest.mark.parametrize("text", ["", "1", "0..", "1..0", "0..0", "0-1", "a..b"])
def test_other_ranges_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="range"):
        parse_range(text)
