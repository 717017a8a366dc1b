from pathlib import Path

import msgspec
import pytest

from builders import make_parts
from builds import SOURCE_SHA256, build_of, make_build
from edgeloop.bundle.archive import digest
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import EngineName, Precision, Variant
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.replay import replay
from edgeloop.toolchain.build import BuildFolder


@pytest.fixture
def folder(tmp_path: Path) -> BuildFolder:
    return make_build(tmp_path / "build")


def _variant(folder: BuildFolder) -> Variant:
    return folder.read_draft().variants[0]


def test_folder_without_a_build_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"edgeloop convert MODEL --out"):
        BuildFolder(tmp_path).read_draft()


def test_draft_comes_back(tmp_path: Path) -> None:
    build = build_of(make_parts())
    BuildFolder(tmp_path).write_draft(build)
    assert BuildFolder(tmp_path).read_draft() == build


def test_damaged_draft_is_corrupt(folder: BuildFolder, tmp_path: Path) -> None:
    path = tmp_path / "build" / "build.json"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(Corrupt, match=r"build\.json"):
        folder.read_draft()


def test_first_model_begins_a_draft(tmp_path: Path) -> None:
    build = build_of(make_parts())
    assert BuildFolder(tmp_path).begin(build) == BuildFolder(tmp_path).read_draft() == build


def test_same_model_goes_on_with_its_draft(folder: BuildFolder) -> None:
    fresh = msgspec.structs.replace(build_of(make_parts()), variants=())
    assert len(folder.begin(fresh).variants) == 1


def test_other_model_is_refused_with_both_hashes(folder: BuildFolder) -> None:
    other = build_of(make_parts(), source_sha256="b" * 64)
    with pytest.raises(InvalidInput, match=rf"{'a' * 12}.*{'b' * 12}.*another --out"):
        folder.begin(other)


def test_other_model_leaves_the_draft(folder: BuildFolder) -> None:
    with pytest.raises(InvalidInput):
        folder.begin(build_of(make_parts(), source_sha256="b" * 64))
    assert folder.read_draft().source_sha256 == SOURCE_SHA256


def test_variant_of_another_engine_is_added(folder: BuildFolder) -> None:
    other = msgspec.structs.replace(_variant(folder), engine=EngineName.LITERT)
    folder.add(folder.read_draft(), other)
    assert [v.engine for v in folder.read_draft().variants] == [EngineName.ONNXRUNTIME, EngineName.LITERT]


def test_variant_of_another_precision_is_added(folder: BuildFolder) -> None:
    other = msgspec.structs.replace(_variant(folder), precision=Precision.INT8)
    assert len(folder.add(folder.read_draft(), other).variants) == 2


def test_variant_of_the_same_engine_and_precision_is_replaced(folder: BuildFolder) -> None:
    other = msgspec.structs.replace(_variant(folder), size_bytes=1)
    folder.add(folder.read_draft(), other)
    assert folder.read_draft().variants == (other,)


def test_file_is_kept_by_its_hash(folder: BuildFolder) -> None:
    sha256 = folder.put(b"content")
    assert (sha256, folder.read(sha256)) == (digest(b"content"), b"content")


def test_missing_file_is_not_found(folder: BuildFolder) -> None:
    with pytest.raises(NotFound, match="convert again"):
        folder.read("0" * 64)


def test_draft_bundle_is_one_that_runs(folder: BuildFolder) -> None:
    bundle = folder.draft_bundle(folder.read_draft(), _variant(folder))
    variant = bundle.manifest.variants[0]
    assert replay(bundle, variant, Predictor(bundle, variant)).failure is None


def test_manifest_lists_only_what_its_variants_need(folder: BuildFolder) -> None:
    stray = folder.put(b"a variant that was replaced")
    build = folder.read_draft()
    manifest = folder.manifest(build, name="tiny", version="1.0.0", variants=build.variants)
    assert stray not in {entry.sha256 for entry in manifest.files}
    assert len(manifest.files) == 5
