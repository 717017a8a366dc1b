import subprocess
import sys
from pathlib import Path

import pytest

from builders import Parts, make_parts, quadrant_weights
from edgeloop.bundle.archive import digest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, EdgeloopError, NotFound
from edgeloop.contracts.names import BundleRef

DATA = bytes(range(256)) * 10
SHA256 = digest(DATA)

_APPEND_WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Unavailable
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
shelf = Shelf(Path(sys.argv[1]))
shelf.append_part("a" * 64, b"x" * 800)
try:
    shelf.append_part("a" * 64, b"y" * 800)
except Unavailable:
    sys.exit(7)
"""


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


def _put(shelf: Shelf, parts: Parts) -> BundleRef:
    for sha256, data in parts.files.items():
        shelf.put(sha256, data)
    return shelf.put_manifest(to_json(parts.manifest))


def test_file_that_was_put_can_be_read(shelf: Shelf) -> None:
    shelf.put(SHA256, DATA)
    assert shelf.read(SHA256) == DATA


def test_file_that_was_not_fetched_is_not_found(shelf: Shelf) -> None:
    with pytest.raises(NotFound, match=SHA256[:12]):
        shelf.read(SHA256)


def test_content_under_another_hash_is_refused(shelf: Shelf) -> None:
    with pytest.raises(Corrupt):
        shelf.put(SHA256, DATA + b"x")


def test_refused_content_is_not_kept(shelf: Shelf) -> None:
    with pytest.raises(Corrupt):
        shelf.put(SHA256, DATA + b"x")
    assert not shelf.has(SHA256)


# ---- downloads in parts


def test_download_that_was_broken_off_goes_on_where_it_was(tmp_path: Path) -> None:
    Shelf(tmp_path).append_part(SHA256, DATA[:1000])
    again = Shelf(tmp_path)
    again.append_part(SHA256, DATA[again.part_size_bytes(SHA256) :])
    again.finish_part(SHA256)
    assert again.read(SHA256) == DATA


def test_part_is_not_taken_for_the_whole(shelf: Shelf) -> None:
    shelf.append_part(SHA256, DATA)
    assert not shelf.has(SHA256)


def test_absent_part_is_empty(shelf: Shelf) -> None:
    assert shelf.part_size_bytes(SHA256) == 0


def test_finished_part_is_no_part_any_more(shelf: Shelf) -> None:
    shelf.append_part(SHA256, DATA)
    shelf.finish_part(SHA256)
    assert (shelf.has(SHA256), shelf.part_size_bytes(SHA256)) == (True, 0)


def test_download_of_another_hash_is_refused(shelf: Shelf) -> None:
    shelf.append_part(SHA256, DATA[:-1] + b"x")
    with pytest.raises(Corrupt, match="thrown away"):
        shelf.finish_part(SHA256)


def test_download_of_another_hash_is_forgotten(shelf: Shelf) -> None:
    shelf.append_part(SHA256, DATA[:-1] + b"x")
    with pytest.raises(Corrupt):
        shelf.finish_part(SHA256)
    assert (shelf.has(SHA256), shelf.part_size_bytes(SHA256)) == (False, 0)


def test_finishing_a_download_that_never_began_is_an_edgeloop_error(shelf: Shelf) -> None:
    with pytest.raises(EdgeloopError):
        shelf.finish_part(SHA256)


def test_discarded_part_is_gone(shelf: Shelf) -> None:
    shelf.append_part(SHA256, DATA)
    shelf.discard_part(SHA256)
    assert shelf.part_size_bytes(SHA256) == 0


def test_discarding_what_is_not_there_is_no_error(shelf: Shelf) -> None:
    shelf.discard_part(SHA256)


def test_full_disk_keeps_the_part_that_is_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _APPEND_WITHOUT_ROOM, str(tmp_path)], capture_output=True, check=False, timeout=60
    )
    kept = (tmp_path / "files" / f"{'a' * 64}.part").read_bytes()
    assert (done.returncode, kept[:800]) == (7, b"x" * 800), done.stderr


# ---- versions


def test_listed_version_can_be_opened(shelf: Shelf) -> None:
    parts = make_parts()
    assert shelf.open(_put(shelf, parts)).manifest == parts.manifest


def test_opened_version_verifies(shelf: Shelf) -> None:
    shelf.open(_put(shelf, make_parts())).verify()


def test_damaged_file_on_the_shelf_is_corrupt(tmp_path: Path) -> None:
    parts = make_parts()
    shelf = Shelf(tmp_path)
    bundle = shelf.open(_put(shelf, parts))
    model = parts.manifest.variants[0].file
    (tmp_path / "files" / model).write_bytes(parts.files[model][:-1] + b"x")
    with pytest.raises(Corrupt, match="does not match its hash"):
        bundle.read(model)


def test_version_that_is_not_listed_is_not_found_and_the_kept_ones_are_named(shelf: Shelf) -> None:
    _put(shelf, make_parts(version="1.0.0"))
    with pytest.raises(NotFound, match=r"kept: tiny@1\.0\.0"):
        shelf.open(BundleRef("tiny", "2.0.0"))


def test_empty_shelf_lists_nothing(shelf: Shelf) -> None:
    assert shelf.refs() == []


def test_versions_are_listed_oldest_first_by_number(shelf: Shelf) -> None:
    for version in ("1.10.0", "1.2.0", "0.9.9", "2.0.0"):
        _put(shelf, make_parts(version=version))
    assert [ref.version for ref in shelf.refs()] == ["0.9.9", "1.2.0", "1.10.0", "2.0.0"]


def test_manifest_that_is_none_is_not_listed(shelf: Shelf) -> None:
    with pytest.raises(Corrupt):
        shelf.put_manifest(b"{")
    assert shelf.refs() == []


# ---- pruning


@pytest.fixture
def two(shelf: Shelf) -> tuple[Parts, Parts]:
    """Two versions on the shelf that share golden inputs and differ in their models."""
    old = make_parts(version="1.0.0")
    new = make_parts(version="1.1.0", weights=quadrant_weights(sharpness=10.0))
    _put(shelf, old)
    _put(shelf, new)
    return old, new


def test_pruned_version_is_not_listed(shelf: Shelf, two: tuple[Parts, Parts]) -> None:
    shelf.prune({two[1].manifest.ref})
    assert shelf.refs() == [two[1].manifest.ref]


def test_of_the_files_that_are_kept_a_part_is_enough(shelf: Shelf) -> None:
    other = digest(b"other")
    shelf.append_part(SHA256, DATA[:10])
    shelf.put(other, b"other")
    shelf.append_part(digest(b"third"), b"th")
    shelf.keep_files({SHA256})
    parts = [shelf.part_size_bytes(one) for one in (SHA256, digest(b"third"))]
    assert (parts, shelf.has(other)) == ([10, 0], False)


def test_kept_version_is_whole_after_pruning_one_that_shares_files(shelf: Shelf, two: tuple[Parts, Parts]) -> None:
    assert set(two[0].files) & set(two[1].files)
    shelf.prune({two[1].manifest.ref})
    shelf.open(two[1].manifest.ref).verify()


def test_files_that_only_the_pruned_version_needed_are_removed(shelf: Shelf, two: tuple[Parts, Parts]) -> None:
    shelf.prune({two[1].manifest.ref})
    assert [sha for sha in two[0].files if shelf.has(sha)] == [sha for sha in two[0].files if sha in two[1].files]


def test_pruning_all_leaves_no_file(shelf: Shelf, two: tuple[Parts, Parts]) -> None:
    shelf.prune(set())
    assert not any(shelf.has(sha256) for parts in two for sha256 in parts.files)


def test_bundle_that_is_named_like_the_folder_of_files_outlives_pruning(shelf: Shelf) -> None:
    ref = _put(shelf, make_parts(name="files"))
    shelf.prune({ref})
    shelf.open(ref).verify()


def test_pruning_keeps_the_part_of_a_file_that_a_kept_version_needs(shelf: Shelf) -> None:
    parts = make_parts()
    ref = shelf.put_manifest(to_json(parts.manifest))
    model = parts.manifest.variants[0].file
    shelf.append_part(model, b"begun")
    shelf.prune({ref})
    assert shelf.part_size_bytes(model) == len(b"begun")
