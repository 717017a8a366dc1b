"""What doctor says of signed metadata in a device's folder."""

import time
from pathlib import Path

import pytest

from edgeloop.cli.doctor import Finding, _signed
from edgeloop.transport.floor import Floor, Mark
from edgeloop.transport.trust import Trust
from signing_cloud import CAMERA, DAY_S, DIRECTOR_ROOT, IMAGES_ROOT, NOW_S, SigningCloud


@pytest.fixture
def cloud() -> SigningCloud:
    return SigningCloud()


def _look(cloud: SigningCloud, folder: Path) -> Finding:
    trust = Trust(folder / "trust", images_root=IMAGES_ROOT, director_root=DIRECTOR_ROOT, fetch=cloud.fetch)
    trust.assignment(CAMERA)
    (found,) = _signed(folder)
    return found


def test_fresh_metadata_is_well(cloud: SigningCloud, tmp_path: Path) -> None:
    assert _look(cloud, tmp_path).state == "ok"


def test_metadata_that_expires_soon_is_warned_of(cloud: SigningCloud, tmp_path: Path) -> None:
    cloud.now_s = cloud.since_s = NOW_S - 6 * DAY_S
    found = _look(cloud, tmp_path)
    assert (found.state, "holds only until" in found.found) == ("warning", True)


def test_clock_behind_what_was_seen_signed_is_an_error(cloud: SigningCloud, tmp_path: Path) -> None:
    _look(cloud, tmp_path)
    later = Mark(key_id="k", version=1, signed_at_s=time.time() + 30 * DAY_S)
    Floor(tmp_path / "trust" / "floor.json").hold("images", later, expires_at_s=time.time() + 40 * DAY_S)
    (found,) = _signed(tmp_path)
    assert (found.state, "set the clock" in found.fix) == ("error", True)


def test_folder_without_any_is_silent(tmp_path: Path) -> None:
    assert _signed(tmp_path) == []
