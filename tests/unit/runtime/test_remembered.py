"""What is kept for the next start: by key, atomically, and never worth an error."""

from pathlib import Path

import msgspec
import pytest

from edgeloop.runtime.remembered import Key, available_cores, cache_folder, key_of, recall, remember

KEY = Key("subject", "machine", ("a 1",))


class Value(msgspec.Struct, frozen=True):
    number: int


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    remember(tmp_path / "deep" / "er", KEY, Value(3))
    assert recall(tmp_path / "deep" / "er", KEY, Value) == Value(3)


def test_nothing_kept_is_none(tmp_path: Path) -> None:
    assert recall(tmp_path, KEY, Value) is None


@pytest.mark.parametrize(
    "other",
    [Key("other", "machine", ("a 1",)), Key("subject", "other", ("a 1",)), Key("subject", "machine", ("a 2",))],
)
def test_another_key_is_another_answer(tmp_path: Path, other: Key) -> None:
    remember(tmp_path, KEY, Value(3))
    assert recall(tmp_path, other, Value) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"number": "x"}', b"\xff\xfe"])
def test_damaged_answer_counts_as_none(tmp_path: Path, damage: bytes) -> None:
    remember(tmp_path, KEY, Value(3))
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage)
    assert recall(tmp_path, KEY, Value) is None


def test_newer_answer_replaces_the_older_and_leaves_nothing_beside(tmp_path: Path) -> None:
    remember(tmp_path, KEY, Value(3))
    remember(tmp_path, KEY, Value(4))
    assert recall(tmp_path, KEY, Value) == Value(4)
    assert len(list(tmp_path.iterdir())) == 1


def test_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    remember(tmp_path / "file" / "sub", KEY, Value(3))
    assert recall(tmp_path / "file" / "sub", KEY, Value) is None


def test_key_names_this_machine_its_cores_and_the_engines_versions() -> None:
    key = key_of("x")
    assert key.machine.endswith(f" {available_cores()}")
    assert any(line.startswith("litert ") for line in key.libraries)
    assert any(line.startswith("edgeloop ") for line in key.libraries)


def test_cache_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "edgeloop"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/edgeloop").expanduser()
