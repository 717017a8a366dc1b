import base64
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.contracts.errors import InvalidInput
from edgeloop.serve import tensors

SHAPE = (1, 2, 3)
NUMBERS = [[[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]]]


def body(**changed: Any) -> bytes:
    tensor = {"name": "x", "shape": [1, 2, 3], "datatype": "FP32", "data": NUMBERS} | changed
    return json.dumps({"inputs": [tensor]}).encode()


def binary(raw: bytes, **changed: Any) -> tuple[bytes, str]:
    tensor = {"name": "x", "shape": [1, 2, 3], "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"inputs": [tensor | changed]}).encode()
    return head + raw, str(len(head))


def given_reals(data: bytes, split: str | None = None, *, max_items: int = 8) -> list[Any]:
    return tensors.reals(tensors.read_request(data, split), SHAPE, max_items=max_items)


# ---- requests


@pytest.mark.parametrize("data", [NUMBERS, [1, 2, 3, 4, 5, 6.5], [[1.0, 2, 3, 4, 5, 6.5]]])
def test_numbers_may_be_nested_or_flat(data: list[Any]) -> None:
    (made,) = given_reals(body(data=data))
    assert made.tolist() == NUMBERS
    assert made.dtype == np.float32


def test_binary_numbers_follow_the_json_part() -> None:
    raw = np.array(NUMBERS, "<f4").tobytes()
    (made,) = given_reals(*binary(raw))
    assert made.tolist() == NUMBERS


def test_batch_axis_is_split() -> None:
    made = given_reals(body(shape=[2, 2, 3], data=list(range(12))))
    assert [one.shape for one in made] == [SHAPE, SHAPE]
    assert np.concatenate(made).ravel().tolist() == list(range(12))


WRONG = [
    (b"", "JSON"),
    (b"[]", "JSON"),
    (b"\xff\xfe", "JSON"),
    (b"[" * 5000, "JSON"),
    (b'{"inputs": []}', "one input, the request has 0"),
    (b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}', "neither"),
    (body(shape=[1, 3, 2]), "must be FP32"),
    (body(shape=[-1, 2, 3]), "must be FP32"),
    (body(shape=[9, 2, 3]), "1 to 8 at a time"),
    (body(shape=[]), "must be FP32"),
    (body(shape=[1, 2, 3.5]), "JSON"),
    (body(datatype="INT64"), "must be FP32"),
    (body(data=[1, 2, 3]), "needs 6 numbers"),
    (body(data=[1, 2, 3, 4, 5, "6"]), "something other than numbers"),
    (body(data=[[1, 2], [3]]), "no array of numbers"),
    (body(data=[1, 2, 3, 4, 5, True, None]), "something other than numbers"),
    (body(data=[1e300, 2, 3, 4, 5, 6]), "too large"),
    (body(data=[10**400, 2, 3, 4, 5, 6]), "JSON|numbers"),
    (body(parameters={"binary_data_size": 24}), "24, but 0 bytes"),
    (json.dumps({"inputs": [json.loads(body())["inputs"][0]], "parameters": {"sequence_id": 3}}).encode(), "sequence"),
]


@pytest.mark.parametrize(("data", "told"), WRONG)
def test_malformed_request_is_refused_with_what_was_expected(data: bytes, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        given_reals(data)


@pytest.mark.parametrize("split", ["-1", "9999", "x", "", "1e3", "٣"])
def test_wrong_length_of_the_json_part_is_refused(split: str) -> None:
    with pytest.raises(InvalidInput, match="Inference-Header-Content-Length"):
        given_reals(body(), split)


@pytest.mark.parametrize("raw", [b"", b"\0" * 23, b"\0" * 25, b"\xff" * 24])
def test_binary_numbers_that_do_not_fit_or_are_nan_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"bytes for|NaN"):
        given_reals(*binary(raw))


def test_bytes_after_the_json_part_that_belong_to_no_input_are_refused() -> None:
    data = body()
    with pytest.raises(InvalidInput, match="4 bytes follow"):
        given_reals(data + b"more", str(len(data)))


@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=4)))
def test_no_bytes_at_all_end_in_anything_but_our_error(data: bytes, split: str | None) -> None:
    with pytest.raises(InvalidInput):
        given_reals(data, split)


def test_timeout_is_microseconds_and_never_more_than_the_servers() -> None:
    assert tensors.deadline_s({"timeout": 250_000}, 10.0) == 0.25
    assert tensors.deadline_s({"timeout": 99_000_000}, 10.0) == 10.0
    assert tensors.deadline_s({"timeout": 10**400}, 10.0) == 10.0
    assert tensors.deadline_s({}, 10.0) == 10.0
    with pytest.raises(InvalidInput, match="microseconds"):
        tensors.deadline_s({"timeout": "soon"}, 10.0)


# ---- encoded bodies


def test_encoded_bodies_come_in_binary_as_text_or_as_base64() -> None:
    raw = b"".join(struct.pack("<I", len(one)) + one for one in (b"\xff\xd8", b"", b"abc"))
    asked = tensors.read_request(*binary(raw, datatype="BYTES", shape=[3]))
    assert tensors.encoded(asked, max_items=4) == [b"\xff\xd8", b"", b"abc"]
    asked = tensors.read_request(body(datatype="BYTES", shape=[2, 1], data=[["1,2"], ["3,4"]]), None)
    assert tensors.encoded(asked, max_items=4) == [b"1,2", b"3,4"]
    listed = [base64.b64encode(b"\xff\xd8").decode()]
    asked = tensors.read_request(
        body(datatype="BYTES", shape=[1], data=listed, parameters={"content_type": "base64"}), None
    )
    assert tensors.encoded(asked, max_items=4) == [b"\xff\xd8"]


@pytest.mark.parametrize("raw", [b"\1", b"\5\0\0\0abc", b"\xff\xff\xff\xff", b"\1\0\0\0a\1\0"])
def test_encoded_bodies_whose_lengths_do_not_hold_are_refused(raw: bytes) -> None:
    with pytest.raises(InvalidInput, match="ends after the tensor"):
        tensors.encoded(tensors.read_request(*binary(raw, datatype="BYTES", shape=[1])), max_items=4)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"data": [1]}, "texts"),
        ({"data": ["a", "b"]}, "2 elements"),
        ({"data": ["a"] * 9, "shape": [9]}, "1 to 4"),
        ({"data": [], "shape": [0]}, "0 elements"),
        ({"data": ["?"], "parameters": {"content_type": "base64"}}, "not base64"),
    ],
)
def test_malformed_texts_are_refused(changed: dict[str, Any], told: str) -> None:
    asked = tensors.read_request(body(**({"datatype": "BYTES", "shape": [1]} | changed)), None)
    with pytest.raises(InvalidInput, match=told):
        tensors.encoded(asked, max_items=4)


# ---- responses

OUTPUTS = {"y": np.array([[1.5, -2.0]], np.float32), "z": np.array([[7.0]], np.float32)}


def infer(**fields: Any) -> tensors.Infer:
    return tensors.Infer([], **fields)


def test_response_lists_all_outputs_flat_and_echoes_the_id() -> None:
    data, json_bytes = tensors.write_response("m", "1.0.0", infer(id="7"), OUTPUTS)
    assert json_bytes is None
    assert json.loads(data) == {
        "model_name": "m",
        "model_version": "1.0.0",
        "id": "7",
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, -2.0]},
            {"name": "z", "datatype": "FP32", "shape": [1, 1], "data": [7.0]},
        ],
    }


def test_outputs_come_as_they_are_asked_for_in_order_and_form() -> None:
    wanted = [tensors.TensorWanted("z"), tensors.TensorWanted("y", {"binary_data": True})]
    data, json_bytes = tensors.write_response("m", "1.0.0", infer(outputs=wanted), OUTPUTS)
    head = json.loads(data[:json_bytes])
    assert [one["name"] for one in head["outputs"]] == ["z", "y"]
    assert head["outputs"][0]["data"] == [7.0]
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 8}
    assert "data" not in head["outputs"][1]
    assert np.frombuffer(data[json_bytes:], "<f4").tolist() == [1.5, -2.0]


def test_binary_output_may_be_asked_for_all_at_once() -> None:
    data, json_bytes = tensors.write_response("m", "1", infer(parameters={"binary_data_output": True}), OUTPUTS)
    assert len(data) - (json_bytes or 0) == 12


def test_predictions_are_bytes_with_their_lengths() -> None:
    parameters = {"binary_data_output": True}
    data, json_bytes = tensors.write_response("m", "1", infer(parameters=parameters), {"prediction": [b"{}", b"[1]"]})
    assert data[json_bytes:] == b"\2\0\0\0{}\3\0\0\0[1]"


def test_output_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="no output 'w'; there is 'y', 'z'"):
        tensors.write_response("m", "1", infer(outputs=[tensors.TensorWanted("w")]), OUTPUTS)


def test_outputs_of_several_runs_are_joined_along_the_batch_axis() -> None:
    assert tensors.joined([OUTPUTS, OUTPUTS])["y"].tolist() == [[1.5, -2.0], [1.5, -2.0]]
    with pytest.raises(InvalidInput, match="no batch axis"):
        tensors.joined([{"y": np.zeros((3, 2), np.float32)}] * 2)
