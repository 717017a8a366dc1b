import contextlib
import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import make_parts
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec, Manifest, Modality
from edgeloop.serve.asgi import Request, WrongType
from edgeloop.serve.bodies import source_of

IMAGES = make_parts().manifest


def of(modality: Modality, shape: tuple[int, ...]) -> Manifest:
    layout = "NHWC"[: len(shape)]
    return msgspec.structs.replace(IMAGES, input=InputSpec("x", modality, shape, layout, (0.0, 1.0)))


SERIES = of(Modality.SERIES, (1, 4, 2))
SOUND = of(Modality.SOUND, (1, 8))
TENSOR = of(Modality.TENSOR, (1, 3))


def ask(body: bytes, kind: str | None, **headers: str) -> Request:
    told = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    if kind is not None:
        told[b"content-type"] = kind.encode()
    return Request("POST", "/predict", told, body)


@pytest.mark.parametrize(
    ("manifest", "kind"),
    [
        (IMAGES, "image/png"),
        (IMAGES, "image/jpeg"),
        (IMAGES, "IMAGE/WEBP; q=1"),
        (SOUND, "audio/wav"),
        (SOUND, "audio/x-wav"),
        (SERIES, "text/csv; charset=utf-8"),
    ],
)
def test_encoded_bodies_go_in_as_they_are(manifest: Manifest, kind: str) -> None:
    assert source_of(ask(b"body", kind), manifest) == b"body"


@pytest.mark.parametrize(
    ("manifest", "kind"),
    [(IMAGES, "audio/wav"), (SOUND, "image/png"), (TENSOR, "text/csv"), (IMAGES, "text/html"), (SERIES, "audio/mp3")],
)
def test_another_kind_of_body_is_refused_with_what_is_taken(manifest: Manifest, kind: str) -> None:
    with pytest.raises(WrongType, match=r"it takes .*application/json"):
        source_of(ask(b"body", kind), manifest)


def test_raw_bytes_are_the_models_input_unless_told() -> None:
    pixels = np.arange(64, dtype=np.uint8)
    made = source_of(ask(pixels.tobytes(), None), IMAGES)
    assert made.shape == (8, 8, 1)
    assert made.dtype == np.uint8
    reals = np.array([1.5, -2, 3], np.float32)
    assert source_of(ask(reals.tobytes(), "application/octet-stream"), TENSOR).tolist() == reals.tolist()


def test_raw_bytes_take_the_shape_and_type_that_are_told() -> None:
    made = source_of(ask(bytes(range(12)), None, x_shape="2, 2,3"), IMAGES)
    assert made.shape == (2, 2, 3)
    samples = np.array([-5, 7], "<i2")
    made = source_of(ask(samples.tobytes(), None, x_shape="2", x_dtype="int16"), SOUND)
    assert made.tolist() == [-5, 7]


@pytest.mark.parametrize(
    ("body", "headers", "told"),
    [
        (b"", {}, "empty"),
        (b"123", {}, "64"),
        (b"123", {"x_shape": "2,2"}, "3 bytes, but uint8 of shape"),
        (b"123", {"x_shape": "-3"}, "whole numbers"),
        (b"123", {"x_shape": ""}, "whole numbers"),
        (b"123", {"x_shape": "3,"}, "whole numbers"),
        (b"123", {"x_shape": "1,1,1,1,1,1,1,1,3"}, "whole numbers"),
        (b"123", {"x_shape": "999999999999,999999999999"}, "3 bytes, but"),
        (b"123", {"x_shape": "3", "x_dtype": "float32"}, "X-Dtype"),
        (b"123", {"x_shape": "3", "x_dtype": "object"}, "X-Dtype"),
    ],
)
def test_raw_bytes_that_are_not_what_is_told_are_refused(body: bytes, headers: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        source_of(ask(body, None, **headers), IMAGES)


def test_json_arrays_become_what_the_model_takes() -> None:
    pixels = source_of(ask(b'{"array": [[0, 255], [1, 2]]}', "application/json"), IMAGES)
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [[0, 255], [1, 2]]
    rows = source_of(ask(b'{"array": [[1, null], [2.5, 4]]}', "application/json"), SERIES)
    np.testing.assert_array_equal(rows, np.array([[1, np.nan], [2.5, 4]], np.float32))
    assert source_of(ask(b'{"array": [1, 2, 3]}', "application/json"), TENSOR).dtype == np.float32


@pytest.mark.parametrize(
    "body",
    [
        b"[1]",
        b"{}",
        b'{"array": 5}',
        b'{"array": []}',
        b'{"array": [256]}',
        b'{"array": [-1]}',
        b'{"array": [0.5]}',
        b'{"array": [null]}',
        b'{"array": ["1"]}',
        b'{"array": [[1], [1, 2]]}',
        b'{"array": [1], "more": 2}',
        b'{"array": [' + b"9" * 400 + b"]}",
        b'{"array": ' + b"[" * 100 + b"1" + b"]" * 100 + b"}",
    ],
)
def test_json_that_is_no_image_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        source_of(ask(body, "application/json"), IMAGES)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=4)))
def test_no_json_at_all_ends_in_anything_but_an_array_or_our_error(value: object) -> None:
    body = json.dumps({"array": value}).encode()
    for manifest in (IMAGES, SERIES, TENSOR):
        with contextlib.suppress(InvalidInput):
            assert isinstance(source_of(ask(body, "application/json"), manifest), np.ndarray)
