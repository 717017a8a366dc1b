import msgspec
import pytest

from builders import make_parts
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.names import BundleRef
from edgeloop.contracts.preprocess import CenterCrop, Grey, Interpolation, Normalize, Resize, Scale

STEPS = (
    Grey(),
    Resize(8, 8, Interpolation.AREA),
    CenterCrop(4, 4),
    Scale(1 / 255, -0.5),
    Normalize((0.1, 0.2, 0.3), (1.0, 2.0, 3.0)),
)


def _with(**changes: object) -> bytes:
    return msgspec.json.encode(msgspec.json.decode(to_json(make_parts().manifest)) | changes)


def test_manifest_names_its_bundle() -> None:
    assert make_parts(name="tiny", version="1.2.3").manifest.ref == BundleRef("tiny", "1.2.3")


def test_every_step_survives_the_wire() -> None:
    manifest = make_parts().changed(preprocess=STEPS).manifest
    assert from_json(to_json(manifest), Manifest, what="m").preprocess == STEPS


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Tiny"},
        {"name": "../tiny"},
        {"name": "tiny\n"},
        {"version": "1.0"},
        {"version": "1.0.0\n"},
        {"output": {"task": "tracking", "scores": "logits", "activation": "softmax"}},
        {"labels": "abc"},
        {"variants": [{"file": "ab", "engine": "litert", "precision": "int8", "size_bytes": 1, "tensors": {}}]},
        {"variants": [{"file": "a" * 64, "engine": "tvm", "precision": "int8", "size_bytes": 1, "tensors": {}}]},
        {"variants": [{"file": "a" * 64, "engine": "litert", "precision": "int3", "size_bytes": 1, "tensors": {}}]},
        {"files": [{"sha256": "a" * 64, "size_bytes": -1}]},
        {"golden": {"inputs": "a" * 64, "outputs": "b" * 64, "count": 15, "tolerance": {}}},
        {"output": {"scores": "logits", "activation": "softmax", "threshold": 1.5}},
        {"output": {"scores": "logits", "activation": "sigmoid"}},
        {"preprocess": [{"step": "resize", "height_px": 8, "width_px": 8}]},
        {"preprocess": [{"step": "resize", "height_px": 0, "width_px": 8, "interpolation": "area"}]},
        {"preprocess": [{"step": "scale", "factor": None}]},
    ],
    ids=str,
)
def test_field_outside_what_the_manifest_allows_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        from_json(_with(**changes), Manifest, what="m")


def test_interpolation_is_never_left_to_a_default() -> None:
    with pytest.raises(TypeError):
        Resize(8, 8)  # type: ignore[call-arg]
