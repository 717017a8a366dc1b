from pathlib import Path

import pytest

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.toolchain.profiles.known import KNOWN
from edgeloop.toolchain.profiles.open import open_profile, profile_names, save_profile


def test_every_name_opens() -> None:
    assert [open_profile(name).name for name in profile_names()] == list(profile_names())


def test_saved_profile_opens_the_same(tmp_path: Path) -> None:
    for profile in KNOWN.values():
        path = tmp_path / f"{profile.name}.json"
        save_profile(profile, path)
        assert open_profile(str(path)) == profile


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(NotFound, match=r"there is no profile 'pi3'; known: pi4, .*, this, or a \.json file"):
        open_profile("pi3")


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no profile at"):
        open_profile(str(tmp_path / "my-board.json"))


def test_file_that_is_no_profile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    path.write_text("{}")
    with pytest.raises(InvalidInput, match=r"board\.json"):
        open_profile(str(path))
    path.write_text("nonsense")
    with pytest.raises(Corrupt, match="not JSON"):
        open_profile(str(path))


def test_profile_is_written_to_json_files_only(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"must end in \.json"):
        save_profile(KNOWN["pi4"], tmp_path / "board.txt")
