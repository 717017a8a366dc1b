"""What is left out of a LiteRT file changes no answer."""

from importlib import resources

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.engines.litert import LiteRtEngine
from edgeloop.toolchain.convert.strip import strip_litert


@pytest.fixture(scope="module")
def wordy() -> bytes:
    """The probe model with what converters leave behind: long names, ranges, metadata, the same numbers twice."""
    data = resources.files("edgeloop.runtime").joinpath("probes", "double.tflite").read_bytes()
    model = schema.ModelT.InitFromPackedBuf(bytearray(data), 0)
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        tensor.name = (f"functional_3_1/block{index}_norm_1/batchnorm/" * 4).encode()
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.min = np.full(200, -1.0, np.float32)
        tensor.quantization.max = np.full(200, 1.0, np.float32)
    notes = schema.MetadataT()
    notes.name, notes.buffer = b"CONVERSION_METADATA", len(model.buffers)
    buffer = schema.BufferT()
    buffer.data = np.zeros(500, np.uint8)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), notes]
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2))
def test_every_answer_is_the_same_bit_by_bit(wordy: bytes, values: list[float]) -> None:
    before, after = LiteRtEngine(wordy), LiteRtEngine(strip_litert(wordy))
    feeds = {before.inputs[0].name: np.array([values], np.float32)}
    (expected,), (made,) = before.run(feeds).values(), after.run(feeds).values()
    assert made.tobytes() == expected.tobytes()


def test_ranges_metadata_and_names_of_inner_tensors_go(wordy: bytes) -> None:
    stripped = strip_litert(wordy)
    assert len(stripped) < len(wordy) - 2 * 200 * 4 - 500
    assert b"batchnorm" not in stripped.replace(_outer_names(wordy), b"")
    assert b"CONVERSION_METADATA" not in stripped


def _outer_names(data: bytes) -> bytes:
    subgraph = schema.ModelT.InitFromPackedBuf(bytearray(data), 0).subgraphs[0]
    return b"batchnorm" if any(b"batchnorm" in subgraph.tensors[i].name for i in subgraph.inputs) else b""


def test_names_of_inputs_and_outputs_stay(wordy: bytes) -> None:
    before, after = LiteRtEngine(wordy), LiteRtEngine(strip_litert(wordy))
    assert (before.inputs, before.outputs) == (after.inputs, after.outputs)


def test_stripping_twice_is_stripping_once(wordy: bytes) -> None:
    once = strip_litert(wordy)
    assert strip_litert(once) == once


def test_what_is_no_litert_file_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no LiteRT model"):
        strip_litert(b"not a model at all")
