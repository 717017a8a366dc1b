"""Records whose files are damaged: real SQLite files with pages overwritten."""

from pathlib import Path

import pytest

from damage import INDEX_LEAF, TABLE_LEAF, damage_pages
from edgeloop.contracts.errors import Unavailable
from edgeloop.transport import salvage
from edgeloop.transport.keep import Keep
from edgeloop.transport.reopen import keep_what_is_readable

VALUES = {f"device {number}": {"key": f"{number:0100d}"} for number in range(1000)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A record of some values, closed."""
    path = tmp_path / "node.db"
    keep = Keep(path)
    keep.set(VALUES)
    keep.close()
    return path


def _opened(path: Path) -> tuple[dict[str, dict[str, str]], str]:
    """What it remembers, and what is told."""
    keep, told = keep_what_is_readable(path)
    found = keep.under("", dict[str, str])
    keep.close()
    return found, told


def test_sound_record_is_opened_as_it_is(path: Path) -> None:
    assert _opened(path) == (VALUES, "")
    assert [one.name for one in path.parent.iterdir()] == ["node.db"]


def test_damaged_page_costs_the_values_that_are_on_it(path: Path) -> None:
    damage_pages(path, kind=TABLE_LEAF)
    found, told = _opened(path)
    assert 900 < len(found) < 1000
    assert found.items() <= VALUES.items()
    assert f"{len(found)} of its values could be read. It lies beside as node.db.damaged" in told
    assert path.with_name("node.db.damaged").exists()
    assert _opened(path) == (found, "")


def test_damaged_index_costs_nothing(path: Path) -> None:
    damage_pages(path, kind=INDEX_LEAF)
    found, told = _opened(path)
    assert found == VALUES
    assert "1,000 of its values" in told


def test_record_of_which_nothing_can_be_read_begins_anew(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)
    assert _opened(path)[0] == {}


def test_damaged_record_waits_for_room_and_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage_pages(path, kind=TABLE_LEAF)
    before = path.read_bytes()
    full = type(salvage.shutil.disk_usage(path.parent))(10**9, 10**9, 1000)
    with monkeypatch.context() as patch:
        patch.setattr(salvage.shutil, "disk_usage", lambda _: full)
        with pytest.raises(Unavailable, match="Free some space"):
            keep_what_is_readable(path)
    assert path.read_bytes() == before
    assert len(_opened(path)[0]) > 900
