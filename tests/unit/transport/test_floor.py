from pathlib import Path

import pytest

from edgeloop.contracts.errors import Refused
from edgeloop.transport.floor import Floor, Mark

DAY_S = 86_400.0
SEEN = Mark(key_id="a", version=10, signed_at_s=100 * DAY_S)
GOOD_UNTIL_S = 107 * DAY_S


@pytest.fixture
def floor(tmp_path: Path) -> Floor:
    made = Floor(tmp_path / "floor.json")
    made.hold("images", SEEN, expires_at_s=GOOD_UNTIL_S)
    return made


def _later(**changes: object) -> Mark:
    return Mark(**({"key_id": "a", "version": 10, "signed_at_s": 100 * DAY_S} | changes))  # type: ignore[arg-type]


def test_same_again_passes(floor: Floor) -> None:
    floor.hold("images", SEEN, expires_at_s=GOOD_UNTIL_S)


def test_older_version_is_refused(floor: Floor) -> None:
    with pytest.raises(Refused, match="version 9, 10 was seen"):
        floor.hold("images", _later(version=9), expires_at_s=GOOD_UNTIL_S)


def test_what_expired_before_the_newest_time_seen_is_refused(floor: Floor) -> None:
    with pytest.raises(Refused, match=r"good until 1970-04-11.*signed on 1970-04-11"):
        floor.hold("images", _later(version=11), expires_at_s=100 * DAY_S)


def test_floor_outlives_the_process(floor: Floor, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        Floor(tmp_path / "floor.json").hold("images", _later(version=9), expires_at_s=GOOD_UNTIL_S)


def test_what_is_refused_does_not_raise_the_floor(floor: Floor) -> None:
    with pytest.raises(Refused):
        floor.hold("images", _later(version=99, signed_at_s=900 * DAY_S), expires_at_s=50 * DAY_S)
    floor.hold("images", SEEN, expires_at_s=GOOD_UNTIL_S)


def test_time_does_not_go_back_with_a_newer_version(floor: Floor) -> None:
    floor.hold("images", _later(version=11, signed_at_s=3 * DAY_S), expires_at_s=GOOD_UNTIL_S)
    with pytest.raises(Refused, match="expired"):
        floor.hold("images", _later(version=12, signed_at_s=3 * DAY_S), expires_at_s=99 * DAY_S)


def test_mark_of_a_key_that_no_longer_counts_holds_nobody_up(floor: Floor) -> None:
    floor.hold("images", _later(version=2**60, signed_at_s=1e9), expires_at_s=2e9)
    floor.hold("images", _later(key_id="b", version=11), expires_at_s=GOOD_UNTIL_S)
    with pytest.raises(Refused):
        floor.hold("images", _later(key_id="b", version=10), expires_at_s=GOOD_UNTIL_S)


def test_repositories_do_not_hold_one_another_up(floor: Floor) -> None:
    floor.hold("director", _later(version=1, signed_at_s=5 * DAY_S), expires_at_s=12 * DAY_S)


@pytest.mark.parametrize("kept", [b"", b"{", b"[]", b'{"images": 3}'])
def test_damaged_file_is_begun_anew(kept: bytes, tmp_path: Path) -> None:
    path = tmp_path / "floor.json"
    path.write_bytes(kept)
    Floor(path).hold("images", SEEN, expires_at_s=GOOD_UNTIL_S)
    with pytest.raises(Refused):
        Floor(path).hold("images", _later(version=9), expires_at_s=GOOD_UNTIL_S)
