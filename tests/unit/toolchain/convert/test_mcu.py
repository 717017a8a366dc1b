import re

import numpy as np
import pytest

from edgeloop.contracts.errors import Refused
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
from edgeloop.toolchain.convert.mcu import c_header
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Format, Model
from edgeloop.toolchain.targets import Target

pytest.importorskip("tflite_micro")


def _probe() -> bytes:
    """Twice the input, (1, 2) float32: the file that the runtime itself probes LiteRT with."""
    from importlib import resources

    return resources.files("edgeloop.runtime").joinpath("probes", "double.tflite").read_bytes()


@pytest.fixture(scope="module")
def source() -> Model:
    return wrap_runnable(_probe(), Format.LITERT, name="double.tflite")


@pytest.fixture(scope="module")
def made(source: Model) -> Model:
    return convert(source, ConvertRecipe(to=Target.MCU))[0]


def test_array_in_the_header_is_the_model(made: Model, source: Model) -> None:
    listed = made.data.decode().partition("{")[2]
    assert bytes(int(byte, 16) for byte in re.findall(r"0x([0-9a-f]{2}),", listed)) == source.data


def test_header_says_length_and_arena(source: Model) -> None:
    made, report = convert(source, ConvertRecipe(to=Target.MCU))
    text = made.data.decode()
    assert f"#define MODEL_BYTES {source.size_bytes}\n" in text
    assert f"#define MODEL_ARENA_BYTES {report.arena_bytes} " in text
    assert "alignas(16) static const unsigned char model[MODEL_BYTES]" in text


def test_same_model_gives_the_same_header(made: Model, source: Model) -> None:
    assert convert(source, ConvertRecipe(to=Target.MCU))[0].data == made.data


def test_quantized_tensors_are_described(source: Model) -> None:
    spec = TensorSpec("x", (1, 2), "int8", 0.5, -3)
    from dataclasses import replace

    assert "x: int8 1x2, real = (stored - -3) * 0.5" in c_header(replace(source, inputs=(spec,)), 100)


def test_it_answers_on_the_small_interpreter(made: Model) -> None:
    (name,) = [spec.name for spec in made.inputs]
    (value,) = made.run({name: np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)}).values()
    assert value.tolist() == [[2.0, 4.0], [6.0, 8.0]]


def test_arena_is_a_multiple_of_the_alignment(source: Model) -> None:
    _, report = convert(source, ConvertRecipe(to=Target.MCU))
    assert report.arena_bytes is not None
    assert report.arena_bytes % 16 == 0


def test_interpreter_that_falls_is_not_us(source: Model) -> None:
    from edgeloop.toolchain.convert.mcu import try_in_arena

    # Too small by far: the interpreter gives up or crashes, in its own process.
    _, answers = try_in_arena(source, {source.inputs[0].name: np.zeros((1, 2), np.float32)}, 64)
    assert answers is None


def test_operator_that_the_small_interpreter_lacks_is_named() -> None:
    data = _probe()
    source = wrap_runnable(_with_operator(data), Format.LITERT, name="odd.tflite")
    with pytest.raises(Refused, match="operator ATAN2"):
        convert(source, ConvertRecipe(to=Target.MCU))


def _with_operator(data: bytes) -> bytes:
    """The probe with its one operator exchanged for one of two inputs that only LiteRT itself has."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(data, 0))
    code = model.operatorCodes[0]
    code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.ATAN2, 127
    operator = model.subgraphs[0].operators[0]
    operator.builtinOptions, operator.builtinOptionsType = None, schema.BuiltinOptions.NONE
    operator.inputs = [operator.inputs[0], operator.inputs[0]]
    builder = schema.flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
