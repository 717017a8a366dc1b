import msgspec
import pytest

from builders import make_parts
from edgeloop.contracts.codec import SCHEMA, from_json, from_msgpack, to_json, to_msgpack, to_pretty_json
from edgeloop.contracts.errors import Corrupt, InvalidInput
from edgeloop.contracts.manifest import InputSpec, Lineage, Manifest, Tolerance
from edgeloop.contracts.messages import SyncReply, SyncRequest
from edgeloop.contracts.output import Classification
from edgeloop.contracts.preprocess import Normalize, Resize, Scale


def _document(**changes: object) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(to_json(make_parts().manifest)) | changes)


def test_json_is_the_same_whatever_the_order_of_a_dict() -> None:
    one = Lineage(recipe={"a": 1, "b": 2}, data_sha256={}, libraries={"x": "1", "y": "2"})
    two = Lineage(recipe={"b": 2, "a": 1}, data_sha256={}, libraries={"y": "2", "x": "1"})
    assert to_json(one) == to_json(two)


def test_json_gives_the_manifest_back() -> None:
    manifest = make_parts().manifest
    assert from_json(to_json(manifest), Manifest, what="m") == manifest


def test_pretty_json_means_the_same_document() -> None:
    manifest = make_parts().manifest
    assert from_json(to_pretty_json(manifest), Manifest, what="m") == manifest


def test_msgpack_gives_the_manifest_back() -> None:
    manifest = make_parts().manifest
    assert from_msgpack(to_msgpack(manifest), Manifest, what="m") == manifest


def test_unknown_field_of_a_descriptive_document_is_ignored() -> None:
    assert from_json(_document(colour="red"), Manifest, what="m") == make_parts().manifest


def test_unknown_field_of_a_message_is_ignored() -> None:
    data = msgspec.msgpack.encode({"schema": SCHEMA, "desired": [], "mood": "good"})
    assert from_msgpack(data, SyncReply, what="m") == SyncReply()


@pytest.mark.parametrize(
    "value",
    [
        make_parts().manifest.input,
        make_parts().manifest.output,
        make_parts().manifest.golden,
        make_parts().manifest.reference,
        make_parts().manifest.budget,
        Tolerance(0.1, 0.1, 1.0),
        Scale(1.0),
        Normalize((0.0,), (1.0,)),
        Resize(8, 8, "area"),  # type: ignore[arg-type]
    ],
    ids=lambda value: type(value).__name__,
)
def test_unknown_field_of_a_type_that_changes_the_computation_is_refused(value: msgspec.Struct) -> None:
    data = msgspec.json.encode(msgspec.json.decode(to_json(value)) | {"gamma": 2.2})
    with pytest.raises(InvalidInput, match="gamma"):
        from_json(data, type(value), what="m")


def test_unknown_preprocess_step_is_refused() -> None:
    with pytest.raises(InvalidInput, match="sharpen"):
        from_json(_document(preprocess=[{"step": "sharpen"}]), Manifest, what="m")


def test_unknown_field_inside_a_preprocess_step_is_refused() -> None:
    with pytest.raises(InvalidInput, match="clip"):
        from_json(_document(preprocess=[{"step": "scale", "factor": 1.0, "clip": True}]), Manifest, what="m")


def test_newer_schema_is_refused_naming_both_versions() -> None:
    with pytest.raises(InvalidInput, match=rf"schema version {SCHEMA + 1}.*reads up to {SCHEMA}\b"):
        from_json(_document(schema=SCHEMA + 1), Manifest, what="manifest.json")


def test_newer_schema_is_named_even_when_its_form_is_unknown() -> None:
    with pytest.raises(InvalidInput, match=rf"schema version {SCHEMA + 1}.*reads up to {SCHEMA}\b"):
        from_json(_document(schema=SCHEMA + 1, preprocess=[{"step": "sharpen"}]), Manifest, what="manifest.json")


def test_newer_schema_of_a_message_is_refused_naming_both_versions() -> None:
    data = msgspec.msgpack.encode({"schema": SCHEMA + 1, "reports": "all of them"})
    with pytest.raises(InvalidInput, match=rf"schema version {SCHEMA + 1}.*reads up to {SCHEMA}\b"):
        from_msgpack(data, SyncRequest, what="m")


@pytest.mark.parametrize("data", [b"", b"{", b'{"name": }', b"\xff\xfe", b'{"name": "\xff"}', b"[] []"])
def test_bytes_that_are_no_json_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt, match="the letter"):
        from_json(data, Manifest, what="the letter")


@pytest.mark.parametrize("data", [b"", b"\x92\x01", b"\xc1", b"\x81\xa4name\xa1\xff"])
def test_bytes_that_are_no_msgpack_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt, match="the letter"):
        from_msgpack(data, Manifest, what="the letter")


def test_json_nested_too_deep_is_refused() -> None:
    data = b'{"extra":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises((Corrupt, InvalidInput)):
        from_json(data, SyncReply, what="m")


def test_msgpack_nested_too_deep_is_refused() -> None:
    with pytest.raises((Corrupt, InvalidInput)):
        from_msgpack(b"\x81\xa5extra" + b"\x91" * 100_000 + b"\x90", SyncReply, what="m")


@pytest.mark.parametrize("data", [b"[]", b"null", b"7", b"{}", b'{"scores": 3}'])
def test_json_of_another_shape_is_invalid_input_that_names_the_document(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="the letter"):
        from_json(data, Classification, what="the letter")


def test_shape_without_axes_of_size_one_or_more_is_invalid_input() -> None:
    data = b'{"name":"x","modality":"image","shape":[1,0],"layout":"NC","value_range":[0,1]}'
    with pytest.raises(InvalidInput, match="shape"):
        from_json(data, InputSpec, what="m")
