import os
from pathlib import Path

import pytest

from builders import make_bundle
from edgeloop.contracts.errors import NotFound
from edgeloop.serve.watch import Watch


def refs(found: list[object]) -> list[str]:
    return [str(one.ref) for one in found]  # type: ignore[attr-defined]


def test_first_look_finds_the_newest_of_each_name(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0", "1.2.0"):
        make_bundle(tmp_path, version=version)
    make_bundle(tmp_path, name="other")
    assert sorted(refs(Watch(tmp_path).newest())) == ["other@1.0.0", "tiny@1.10.0"]


def test_later_looks_find_only_what_is_new(tmp_path: Path) -> None:
    make_bundle(tmp_path, version="1.0.0")
    watch = Watch(tmp_path)
    watch.newest()
    assert watch.newest() == []
    make_bundle(tmp_path, version="1.1.0")
    assert refs(watch.newest()) == ["tiny@1.1.0"]
    assert watch.newest() == []
    assert refs(watch.newest(everything=True)) == ["tiny@1.1.0"]


def test_file_that_is_no_bundle_yet_is_found_once_it_is(tmp_path: Path) -> None:
    whole = make_bundle(tmp_path / "elsewhere.edgeloop")
    data = whole.read_bytes()
    whole.unlink()
    watch = Watch(tmp_path)
    slowly = tmp_path / "tiny-1.0.0.edgeloop"
    slowly.write_bytes(data[: len(data) // 2])
    assert watch.newest() == []
    slowly.write_bytes(data)
    assert refs(watch.newest()) == ["tiny@1.0.0"]


def test_bundle_that_is_replaced_by_another_of_the_same_name_and_size_is_found(tmp_path: Path) -> None:
    path = make_bundle(tmp_path, version="1.0.0")
    watch = Watch(tmp_path)
    watch.newest()
    status = path.stat()
    make_bundle(path, version="1.0.1")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert refs(watch.newest()) == ["tiny@1.0.1"]


def test_find_takes_the_newest_or_the_version_that_is_named(tmp_path: Path) -> None:
    for version in ("1.9.0", "1.10.0"):
        make_bundle(tmp_path, version=version)
    watch = Watch(tmp_path)
    assert str(watch.find("tiny").ref) == "tiny@1.10.0"
    assert str(watch.find("tiny", "1.9.0").ref) == "tiny@1.9.0"
    with pytest.raises(NotFound, match=r"no tiny@2.0.0; it holds tiny@1.9.0, tiny@1.10.0"):
        watch.find("tiny", "2.0.0")
    with pytest.raises(NotFound, match=r"holds no \.\./\.\./etc"):
        watch.find("../../etc")


def test_looking_for_one_bundle_does_not_hide_that_another_is_new(tmp_path: Path) -> None:
    make_bundle(tmp_path, version="1.0.0")
    watch = Watch(tmp_path)
    watch.newest()
    make_bundle(tmp_path, version="1.1.0")
    make_bundle(tmp_path, name="other")
    watch.find("other")
    watch.list()
    assert sorted(refs(watch.newest())) == ["other@1.0.0", "tiny@1.1.0"]


def test_folder_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no folder"):
        Watch(tmp_path / "away").newest()
