import stat
import struct
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import MemoryFiles, Parts, as_bundle, make_bundle, make_parts, pack
from edgeloop.bundle.archive import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MAX_VARIANTS,
    Bundle,
    digest,
    entries,
    open_bundle,
    parse_manifest,
    write_bundle,
)
from edgeloop.contracts.codec import SCHEMA, to_json
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, NotFound
from edgeloop.contracts.manifest import FileEntry, Lineage, Reuse
from edgeloop.contracts.output import (
    Activation,
    Anomaly,
    Classification,
    Corners,
    Detection,
    Distance,
    Embedding,
    Enrolled,
    ErrorKind,
    Output,
    PlainBoxes,
    Regression,
    Segmentation,
    Task,
)

Member = tuple[zipfile.ZipInfo | str, bytes]


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_parts()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_bundle(tmp_path_factory.mktemp("sound")).read_bytes()


def _members(parts: Parts) -> list[Member]:
    return [(MANIFEST, to_json(parts.manifest)), *((f"files/{sha}", data) for sha, data in parts.files.items())]


def _zip(path: Path, members: Iterable[Member], *, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(_plain(name) if isinstance(name, str) else name, data, compression)
    return path


def _plain(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _refused(path: Path) -> str:
    with pytest.raises(Corrupt) as caught:
        open_bundle(path).verify()
    return str(caught.value)


# ---- writing


def test_same_parts_give_the_same_bytes(tmp_path: Path, sound: bytes) -> None:
    assert make_bundle(tmp_path).read_bytes() == sound


def test_order_of_files_does_not_change_the_bytes(tmp_path: Path, parts: Parts, sound: bytes) -> None:
    turned = Parts(parts.manifest, dict(reversed(parts.files.items())))
    assert pack(turned, tmp_path).read_bytes() == sound


def test_order_of_keys_in_the_manifest_does_not_change_the_bytes(tmp_path: Path, parts: Parts, sound: bytes) -> None:
    old = parts.manifest.lineage
    turned = Lineage(
        recipe=dict(reversed(old.recipe.items())),
        data_sha256=dict(reversed(old.data_sha256.items())),
        libraries=dict(reversed(old.libraries.items())),
    )
    assert pack(parts.changed(lineage=turned), tmp_path).read_bytes() == sound


def test_other_content_gives_other_bytes(tmp_path: Path, sound: bytes) -> None:
    assert make_bundle(tmp_path, version="1.0.1").read_bytes() != sound


def test_written_bundle_gives_back_its_manifest(tmp_path: Path, parts: Parts) -> None:
    assert open_bundle(pack(parts, tmp_path)).manifest == parts.manifest


def test_written_bundle_gives_back_its_files(tmp_path: Path, parts: Parts) -> None:
    bundle = open_bundle(pack(parts, tmp_path))
    assert {sha256: bundle.read(sha256) for sha256 in parts.files} == parts.files


def test_variant_is_found_by_its_file(parts: Parts) -> None:
    (variant,) = parts.manifest.variants
    assert as_bundle(parts).variant(variant.file) == variant


def test_file_of_no_variant_is_corrupt_and_those_there_are_named(parts: Parts) -> None:
    (variant,) = parts.manifest.variants
    with pytest.raises(Corrupt, match=f"has no variant {'0' * 12}; it has {variant.file[:12]}"):
        as_bundle(parts).variant("0" * 64)


def test_opened_bundle_keeps_the_manifest_as_it_was_written(tmp_path: Path, parts: Parts) -> None:
    assert open_bundle(pack(parts, tmp_path)).manifest_bytes == to_json(parts.manifest)


def test_every_member_is_stored_as_a_plain_file(tmp_path: Path, parts: Parts) -> None:
    with zipfile.ZipFile(pack(parts, tmp_path)) as archive:
        kinds = {(info.compress_type, stat.S_ISREG(info.external_attr >> 16)) for info in archive.infolist()}
    assert kinds == {(zipfile.ZIP_STORED, True)}


def test_manifest_comes_first_so_that_it_can_be_read_from_a_stream(tmp_path: Path, parts: Parts) -> None:
    with zipfile.ZipFile(pack(parts, tmp_path)) as archive:
        assert archive.namelist()[0] == MANIFEST


def test_writing_without_a_listed_file_is_refused(tmp_path: Path, parts: Parts) -> None:
    files = dict(parts.files)
    files.popitem()
    with pytest.raises(InvalidInput, match="not those that its manifest lists"):
        write_bundle(tmp_path / "x.edgeloop", parts.manifest, files)


def test_writing_a_file_under_another_hash_is_refused(tmp_path: Path, parts: Parts) -> None:
    sha256, data = next(iter(parts.files.items()))
    with pytest.raises(InvalidInput, match="not those that its manifest lists"):
        write_bundle(tmp_path / "x.edgeloop", parts.manifest, parts.files | {sha256: data[::-1]})


def test_refused_write_leaves_nothing(tmp_path: Path, parts: Parts) -> None:
    with pytest.raises(InvalidInput):
        write_bundle(tmp_path / "x.edgeloop", parts.manifest, {})


@pytest.mark.parametrize("name", ["files", "patches"])
def test_name_of_a_folder_of_devices_is_not_written(tmp_path: Path, name: str) -> None:
    parts = make_parts(name=name)
    with pytest.raises(InvalidInput, match=f"{name}-model"):
        write_bundle(tmp_path / "x.edgeloop", parts.manifest, parts.files)
    assert not (tmp_path / "x.edgeloop").exists()
    assert list(tmp_path.iterdir()) == []


def test_manifest_that_could_not_be_opened_is_not_written(tmp_path: Path, parts: Parts) -> None:
    with pytest.raises(InvalidInput, match="labels"):
        pack(parts.changed(labels=("only",)), tmp_path)


def test_file_list_is_sorted_and_without_doubles() -> None:
    assert entries([b"b", b"a", b"b"]) == tuple(sorted({FileEntry(digest(data), 1) for data in (b"a", b"b")},
                                                       key=lambda entry: entry.sha256))  # fmt: skip


# ---- what parse_manifest checks


def test_manifest_that_lists_a_file_twice_is_corrupt(parts: Parts) -> None:
    doubled = parts.changed(files=(*parts.manifest.files, parts.manifest.files[0]))
    with pytest.raises(Corrupt, match="twice"):
        parse_manifest(to_json(doubled.manifest))


@pytest.mark.parametrize("role", ["model", "golden inputs", "golden outputs", "class means", "feature std"])
def test_manifest_that_refers_to_a_file_it_does_not_list_is_corrupt(parts: Parts, role: str) -> None:
    manifest = parts.manifest
    assert manifest.reference is not None
    gone = {
        "model": manifest.variants[0].file,
        "golden inputs": manifest.golden.inputs,
        "golden outputs": manifest.golden.outputs,
        "class means": manifest.reference.class_means,
        "feature std": manifest.reference.feature_std,
    }[role]
    left = tuple(entry for entry in manifest.files if entry.sha256 != gone)
    with pytest.raises(Corrupt, match=gone):
        parse_manifest(to_json(parts.changed(files=left).manifest))


def test_manifest_without_variants_is_refused(parts: Parts) -> None:
    with pytest.raises(InvalidInput, match="variants"):
        parse_manifest(to_json(parts.changed(variants=()).manifest))


def test_manifest_that_lists_a_variant_twice_is_refused(parts: Parts) -> None:
    (first, *_) = parts.manifest.variants
    again = msgspec.structs.replace(first, tensors={"other": "name"})
    with pytest.raises(InvalidInput, match=rf"the variant {first.engine} {first.precision} of file \w+ more than once"):
        parse_manifest(to_json(parts.changed(variants=(first, again)).manifest))


@pytest.mark.parametrize("count", [MAX_VARIANTS, MAX_VARIANTS + 1])
def test_manifest_has_a_bounded_number_of_variants(parts: Parts, count: int) -> None:
    (first, *_) = parts.manifest.variants
    contents = [f"model {number}".encode() for number in range(count)]
    variants = tuple(msgspec.structs.replace(first, file=digest(data)) for data in contents)
    many = parts.changed(variants=variants, files=entries([*parts.files.values(), *contents])).manifest
    if count == MAX_VARIANTS:
        assert len(parse_manifest(to_json(many)).variants) == count
    else:
        with pytest.raises(InvalidInput, match="has 65 variants; at most 64 are taken"):
            parse_manifest(to_json(many))


@pytest.mark.parametrize("asked", [0, 4097, 2**31])
def test_manifest_that_asks_for_too_many_answers_to_be_kept_is_refused(parts: Parts, asked: int) -> None:
    manifest = parts.changed(reuse=Reuse(entries=asked)).manifest
    with pytest.raises(InvalidInput, match=r"Expected `int` .=.*reuse\.entries"):
        parse_manifest(to_json(manifest))


def test_bundle_from_before_reuse_and_budget_is_read(parts: Parts) -> None:
    document = msgspec.json.decode(to_json(parts.manifest))
    for later in ("reuse", "budget"):
        document.pop(later)
    assert parse_manifest(to_json(document)).reuse == Reuse()
    document["reuse"] = {"entries": 4096, "max_age_s": 60.0, "near": 0.02}
    assert parse_manifest(to_json(document)).reuse.entries == 4096


@pytest.mark.parametrize("labels", [(), ("a",), ("a", "a"), ("a", "b", "a")])
def test_labels_that_cannot_be_told_apart_are_refused(parts: Parts, labels: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput, match="labels"):
        parse_manifest(to_json(parts.changed(labels=labels).manifest))


BOXES = PlainBoxes(corners=Corners.XYXY, normalized=True)
OUTPUTS: dict[Task, Output] = {
    Task.CLASSIFICATION: Classification(scores="s", activation=Activation.NONE),
    Task.DETECTION: Detection(
        boxes="b", scores="s", activation=Activation.NONE, decode=BOXES, threshold=0.5, iou_threshold=0.5
    ),
    Task.REGRESSION: Regression(value="v", unit=("V",), agree_within=0.1),
    Task.ANOMALY: Anomaly(reconstruction="r", error=ErrorKind.MEAN_SQUARED, threshold=0.1),
    Task.EMBEDDING: Embedding(vector="v", distance=Distance.COSINE, threshold=0.3),
    Task.SEGMENTATION: Segmentation(scores="s", activation=Activation.SOFTMAX),
}
ENOUGH = {
    Task.CLASSIFICATION: (2, 3, 9),
    Task.DETECTION: (1, 2, 3, 9),
    Task.REGRESSION: (1, 2, 3, 9),
    Task.ANOMALY: (2,),
    Task.EMBEDDING: (0,),
    Task.SEGMENTATION: (2, 3, 9),
}


@pytest.mark.parametrize("count", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("task", Task)
def test_how_many_labels_there_must_be_depends_on_the_task(parts: Parts, task: Task, count: int) -> None:
    made = parts.changed(output=OUTPUTS[task], labels=tuple("abcdefghi"[:count]), reference=None)
    if count in ENOUGH[task]:
        assert parse_manifest(to_json(made.manifest)).task is task
        return
    with pytest.raises(InvalidInput, match=rf"is for {task}, which needs .* label"):
        parse_manifest(to_json(made.manifest))


@pytest.mark.parametrize("task", [Task.DETECTION, Task.REGRESSION, Task.ANOMALY])
def test_labels_are_distinct_for_every_task(parts: Parts, task: Task) -> None:
    with pytest.raises(InvalidInput, match="'a' stands in"):
        parse_manifest(to_json(parts.changed(output=OUTPUTS[task], labels=("a", "a"), reference=None).manifest))


def test_one_label_said_a_hundred_thousand_times_is_refused_at_once(parts: Parts) -> None:
    document = to_json(parts.changed(labels=("a",) * 100_000).manifest)
    began_s = time.process_time()
    with pytest.raises(InvalidInput, match="'a' stands in"):
        parse_manifest(document)
    # 10 ms here; to count each label among all the others took minutes.
    assert time.process_time() - began_s < 3.0


def test_enrolled_examples_are_files_that_the_manifest_must_list(parts: Parts) -> None:
    vectors = digest(b"vectors")
    embedding = msgspec.structs.replace(OUTPUTS[Task.EMBEDDING], enrolled=Enrolled(labels=("ann",), vectors=vectors))
    made = parts.changed(output=embedding, labels=(), reference=None)
    with pytest.raises(Corrupt, match=vectors):
        parse_manifest(to_json(made.manifest))
    listed = made.changed(files=(*parts.manifest.files, FileEntry(vectors, 7)))
    assert parse_manifest(to_json(listed.manifest)).output == embedding


def test_manifest_from_before_there_was_more_than_one_task_is_read_as_classification(parts: Parts) -> None:
    """As edgeloop wrote it then: the task beside the output, none in it."""
    document = msgspec.json.decode(to_json(parts.manifest))
    del document["output"]["task"]
    old = to_json({**document, "task": "classification"})
    assert parse_manifest(old) == parts.manifest


@pytest.mark.parametrize("output", [{}, {"scores": 3}, "logits", None, []], ids=repr)
def test_output_of_another_form_is_invalid_input_with_and_without_a_task(parts: Parts, output: object) -> None:
    document = msgspec.json.decode(to_json(parts.manifest))
    with pytest.raises(InvalidInput, match=r"manifest\.json"):
        parse_manifest(to_json({**document, "output": output}))


@pytest.mark.parametrize("shape", [(), (2, 8, 8, 1)], ids=str)
def test_input_whose_batch_axis_is_not_one_is_refused(parts: Parts, shape: tuple[int, ...]) -> None:
    spec = msgspec.structs.replace(parts.manifest.input, shape=shape, layout="NHWC"[: len(shape)])
    with pytest.raises(EdgeloopError):
        parse_manifest(to_json(parts.changed(input=spec).manifest))


# ---- opening with suspicion


def test_absent_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"x\.edgeloop"):
        open_bundle(tmp_path / "x.edgeloop")


def test_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        open_bundle(tmp_path)


@pytest.mark.parametrize("data", [b"", b"hello", b"PK", b"PK\x05\x06" + b"\0" * 18, b"\0" * 100_000])
def test_file_that_is_no_archive_is_corrupt(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.edgeloop"
    path.write_bytes(data)
    assert "x.edgeloop" in _refused(path)


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "files/../../evil", "files/../" + "a" * 61, "C:\\evil", "files\\" + "a" * 64, "evil",
     "files/" + "A" * 64, "files/" + "a" * 63, "files/" + "a" * 64 + "/", "files/", "manifest.json/", "a\x01b"],
)  # fmt: skip
def test_member_of_another_name_is_refused(tmp_path: Path, parts: Parts, name: str) -> None:
    assert "no bundle has" in _refused(_zip(tmp_path / "x.edgeloop", [*_members(parts), (name, b"evil")]))


def test_nothing_is_written_while_a_climbing_archive_is_opened(tmp_path: Path, parts: Parts) -> None:
    path = _zip(tmp_path / "x.edgeloop", [*_members(parts), ("../evil", b"evil"), ("files/evil", b"evil")])
    before = sorted(tmp_path.parent.rglob("*"))
    _refused(path)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_nothing_is_extracted_while_a_sound_archive_is_read(tmp_path: Path) -> None:
    path = make_bundle(tmp_path)
    open_bundle(path).verify()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO, stat.S_IFCHR])
def test_member_that_is_no_plain_file_is_refused(tmp_path: Path, parts: Parts, kind: int) -> None:
    members = _members(parts)
    info = zipfile.ZipInfo(str(members[1][0]))
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    members[1] = (info, members[1][1])
    assert "link or special" in _refused(_zip(tmp_path / "x.edgeloop", members))


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_member_is_refused(tmp_path: Path, parts: Parts, compression: int) -> None:
    assert "compressed" in _refused(_zip(tmp_path / "x.edgeloop", _members(parts), compression=compression))


def test_bomb_is_refused_before_it_is_expanded(tmp_path: Path, parts: Parts) -> None:
    bomb = bytes(50_000_000)
    listed = parts.changed(files=(*parts.manifest.files, FileEntry(digest(bomb), len(bomb))))
    members = [(MANIFEST, to_json(listed.manifest)), *_members(parts)[1:], (f"files/{digest(bomb)}", bomb)]
    path = _zip(tmp_path / "x.edgeloop", members, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(Corrupt, match="compressed"):
        open_bundle(path)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning:zipfile")  # the test means to write one
def test_member_that_is_there_twice_is_refused(tmp_path: Path, parts: Parts) -> None:
    members = _members(parts)
    assert "twice" in _refused(_zip(tmp_path / "x.edgeloop", [*members, (members[1][0], b"other")]))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning:zipfile")  # the test means to write them
def test_member_that_is_there_twenty_thousand_times_is_refused_at_once(tmp_path: Path, parts: Parts) -> None:
    path = _zip(tmp_path / "x.edgeloop", _members(parts))
    whole = path.read_bytes()
    start = int.from_bytes(whole[-6:-2], "little")
    entry = whole[start : start + 46 + len(MANIFEST)]
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 20_000, 20_000, 20_000 * len(entry), start, 0)
    path.write_bytes(whole[:start] + 20_000 * entry + end)
    began_s = time.process_time()
    assert "twice" in _refused(path)
    # 0.1 s here; to count each name among all the others took 5.
    assert time.process_time() - began_s < 3.0


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning:zipfile")  # the test means to write one
def test_second_manifest_is_refused(tmp_path: Path, parts: Parts) -> None:
    assert "twice" in _refused(_zip(tmp_path / "x.edgeloop", [*_members(parts), (MANIFEST, b"{}")]))


def test_member_that_the_manifest_does_not_list_is_refused(tmp_path: Path, parts: Parts) -> None:
    extra = f"files/{digest(b'extra')}"
    path = _zip(tmp_path / "x.edgeloop", [*_members(parts), (extra, b"extra")])
    with pytest.raises(Corrupt, match="does not list"):
        open_bundle(path)


def test_missing_member_is_refused(tmp_path: Path, parts: Parts) -> None:
    path = _zip(tmp_path / "x.edgeloop", _members(parts)[:-1])
    with pytest.raises(Corrupt, match="lacks"):
        open_bundle(path)


def test_archive_without_a_manifest_is_refused(tmp_path: Path, parts: Parts) -> None:
    assert MANIFEST in _refused(_zip(tmp_path / "x.edgeloop", _members(parts)[1:]))


def test_member_of_another_size_than_listed_is_refused_on_opening(tmp_path: Path, parts: Parts) -> None:
    members = _members(parts)
    members[1] = (members[1][0], members[1][1] + b"x")
    path = _zip(tmp_path / "x.edgeloop", members)
    with pytest.raises(Corrupt, match="its manifest says"):
        open_bundle(path)


def test_oversized_manifest_is_refused_unread(tmp_path: Path, parts: Parts) -> None:
    padded = to_json(parts.manifest) + b" " * MAX_MANIFEST_BYTES
    assert "at most" in _refused(_zip(tmp_path / "x.edgeloop", [(MANIFEST, padded), *_members(parts)[1:]]))


def test_manifest_that_is_no_json_is_corrupt(tmp_path: Path, parts: Parts) -> None:
    assert "not JSON" in _refused(_zip(tmp_path / "x.edgeloop", [(MANIFEST, b"{"), *_members(parts)[1:]]))


def test_bundle_of_a_newer_schema_is_refused_as_such(tmp_path: Path, parts: Parts) -> None:
    newer = parts.changed(schema=SCHEMA + 1)
    path = _zip(tmp_path / "x.edgeloop", _members(newer))
    with pytest.raises(InvalidInput, match=f"schema version {SCHEMA + 1}"):
        open_bundle(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_archive_is_corrupt(tmp_path: Path, sound: bytes, share: float) -> None:
    path = tmp_path / "x.edgeloop"
    path.write_bytes(sound[: int(share * len(sound))])
    assert "x.edgeloop" in _refused(path)


def test_content_that_is_not_its_hash_is_corrupt_when_it_is_read(tmp_path: Path, parts: Parts) -> None:
    """A member whose ZIP checksum holds, so that only the hash can tell."""
    members = _members(parts)
    name, data = members[1]
    members[1] = (name, bytes([data[0] ^ 1]) + data[1:])
    bundle = open_bundle(_zip(tmp_path / "x.edgeloop", members))
    with pytest.raises(Corrupt, match="does not match its hash"):
        bundle.read(str(name).removeprefix("files/"))


def test_flipped_byte_of_content_is_corrupt_when_it_is_read(tmp_path: Path, parts: Parts, sound: bytes) -> None:
    model = parts.files[parts.manifest.variants[0].file]
    place = sound.index(model) + len(model) // 2
    path = tmp_path / "x.edgeloop"
    path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
    bundle = open_bundle(path)
    with pytest.raises(Corrupt):
        bundle.read(parts.manifest.variants[0].file)


def test_verify_finds_damage_in_any_file(tmp_path: Path, parts: Parts) -> None:
    members = _members(parts)
    name, data = members[-1]
    members[-1] = (name, data[:-1] + bytes([data[-1] ^ 1]))
    bundle = open_bundle(_zip(tmp_path / "x.edgeloop", members))
    with pytest.raises(Corrupt, match="does not match its hash"):
        bundle.verify()


def test_file_that_the_manifest_does_not_list_is_not_found(parts: Parts) -> None:
    with pytest.raises(NotFound, match="lists no file"):
        as_bundle(parts).read("0" * 64)


def test_listed_file_that_is_not_here_is_not_found(parts: Parts) -> None:
    bundle = Bundle(parts.manifest, MemoryFiles({}), manifest_bytes=b"")
    with pytest.raises(NotFound):
        bundle.read(parts.manifest.variants[0].file)


def test_archive_that_vanishes_after_opening_is_an_edgeloop_error(tmp_path: Path, parts: Parts) -> None:
    path = pack(parts, tmp_path)
    bundle = open_bundle(path)
    path.unlink()
    with pytest.raises(EdgeloopError):
        bundle.verify()


def _patch_central_flags(data: bytes, bit: int) -> bytes:
    """Set a general purpose flag of the last member in the central directory (APPNOTE 4.3.12, offset 8)."""
    place = data.rindex(b"PK\x01\x02") + 8
    (flags,) = struct.unpack_from("<H", data, place)
    return data[:place] + struct.pack("<H", flags | bit) + data[place + 2 :]


def _patch_local_name(data: bytes, bit: int) -> bytes:
    """Set the UTF-8 flag of the last member's local header and make its name no UTF-8 (APPNOTE 4.3.7)."""
    data = _patch_central_flags(data, bit)
    place = data.rindex(b"PK\x03\x04")
    return data[: place + 6] + struct.pack("<H", bit) + data[place + 8 : place + 30] + b"\xff" + data[place + 31 :]


@pytest.mark.parametrize(
    ("patch", "bit"),
    [
        (_patch_central_flags, 0x1),
        (_patch_central_flags, 0x20),
        (_patch_central_flags, 0x40),
        (_patch_local_name, 0x800),
    ],
    ids=["encrypted", "patched data", "strong encryption", "name that is no UTF-8"],
)
def test_archive_that_needs_what_zipfile_cannot_do_is_corrupt(
    tmp_path: Path, sound: bytes, patch: Callable[[bytes, int], bytes], bit: int
) -> None:
    path = tmp_path / "x.edgeloop"
    path.write_bytes(patch(sound, bit))
    assert "x.edgeloop" in _refused(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_archive_is_sound_or_refused_never_a_foreign_error(
    tmp_path: Path, sound: bytes, parts: Parts, data: st.DataObject
) -> None:
    """Any few bytes changed: either the content is still right, or one of our errors says that it is not."""
    damaged = bytearray(sound)
    headers = sound.index(b"PK\x01\x02")
    place = st.one_of(st.integers(0, 200), st.integers(headers, len(sound) - 1), st.integers(0, len(sound) - 1))
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=4)):
        damaged[at] = value
    path = tmp_path / "x.edgeloop"
    path.write_bytes(damaged)
    try:
        bundle = open_bundle(path)
        found = {sha256: bundle.read(sha256) for sha256 in parts.files}
    except EdgeloopError:
        return
    assert found == parts.files
