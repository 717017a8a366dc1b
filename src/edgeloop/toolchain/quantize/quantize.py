"""The step: a model to fewer bits on the engine that it is for, measured against what it was.

Neighbours: `litert`, `onnx` and `openvino` do it, `equalize` prepares a Keras model, `sensitivity` mixes precisions.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
from edgeloop.toolchain.convert.strip import strip_model
from edgeloop.toolchain.convert.uint8 import is_uint8
from edgeloop.toolchain.data.dataset import Prepared, sha256_of
from edgeloop.toolchain.outputs import require_finite
from edgeloop.toolchain.progress import Progress, silent, within
from edgeloop.toolchain.quantize.activations import Ranges
from edgeloop.toolchain.quantize.equalize import EqualizeRecipe, equalize
from edgeloop.toolchain.quantize.flatbuffer import Graph
from edgeloop.toolchain.quantize.layers import operators_of_layers, scopes_of
from edgeloop.toolchain.quantize.litert import eight_bit_operators, quantize_litert
from edgeloop.toolchain.quantize.recipe import (
    FEWEST_SAMPLES,
    QuantizeRecipe,
    QuantizeReport,
    in_words,
)
from edgeloop.toolchain.source.engine import ENGINES, wrap_runnable
from edgeloop.toolchain.source.model import LOGITS, Format, Model
from edgeloop.toolchain.source.save import SUFFIX
from edgeloop.toolchain.targets import Target

Tensors = NDArray[Any] | Mapping[str, NDArray[Any]]
"""Model inputs (N, ...), by name where the model has several."""

_MOST_JUDGED = 1_000
_QUANTIZED_FROM = (Format.LITERT, Format.ONNX, Format.OPENVINO)


def quantize(
    model: Model,
    recipe: QuantizeRecipe,
    data: Prepared | Tensors,
    *,
    to: Format | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    progress: Progress = silent,
) -> tuple[Model, QuantizeReport]:
    """The model at the recipe's precision.

    model: float (for int8, LiteRT's old uint8 is taken, too); converted first where `to` is another format than its
    own (unless told it is its own, or LiteRT for one that no engine runs). data: calibrates, and judges by samples
    that did not calibrate where there are enough.
    ranges: of activations by Keras layer, as `aware` learns them; LiteRT only. Raises InvalidInput for a scheme that
    the engine has none of or data that does not fit, Refused for a model that cannot be quantized.
    """
    calibration, judged = split_tensors(model, data, recipe.calibration_samples)
    target = to or (model.format if model.format in _QUANTIZED_FROM else Format.LITERT)
    prepared = _equalized(model, recipe)
    source = float_source(prepared, target, data, within(progress, 0.0, 0.4))
    progress(0.4, "quantizing")
    made_bytes = _run_engine(prepared, source.data, target, recipe, calibration, ranges or {})
    name = f"{Path(model.name).stem}.{recipe.precision}{SUFFIX[target]}"
    # Equalisation is a step of its own by now; done again from here, it would be refused.
    step = msgspec.structs.replace(recipe, equalize=False)
    whole = wrap_runnable(made_bytes, target, name=name)
    progress(0.8, "comparing with the float model")
    report = compare(model, whole, judged, recipe)
    progress(1.0, "quantized")
    lean = strip_model(whole)
    return lean.after("quantize", step, before=source, data_sha256=sha256_of(data)), msgspec.structs.replace(
        report, size_after_bytes=lean.size_bytes
    )


def split_tensors(
    model: Model, data: Prepared | Tensors, calibration_samples: int
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Model inputs to calibrate with and to judge by, by name.

    Of a dataset its fit and its validation part. Of tensors the first calibration_samples, and the rest of them, or
    all again where fewer than 16 are left. Raises InvalidInput if they do not fit the model.
    """
    if isinstance(data, Prepared):
        name = model.only_input().name
        fit, validation = data.dataset.fit, data.dataset.validation
        if len(validation) < FEWEST_SAMPLES:
            validation = fit
        calibration = {name: data.tensors(fit.take(calibration_samples).inputs)}
        return calibration, {name: data.tensors(validation.take(_MOST_JUDGED).inputs)}
    given = dict(data) if isinstance(data, Mapping) else {model.only_input().name: data}
    _require_fitting(model, given)
    calibration = {name: array[:calibration_samples] for name, array in given.items()}
    rest = {name: array[calibration_samples:][:_MOST_JUDGED] for name, array in given.items()}
    enough = len(next(iter(rest.values()))) >= FEWEST_SAMPLES
    return calibration, rest if enough else {name: array[:_MOST_JUDGED] for name, array in given.items()}


def float_source(model: Model, to: Format, data: Prepared | Tensors, progress: Progress = silent) -> Model:
    """A float model in the format that `to` is quantized from, converted and proven where it is another.

    Raises InvalidInput if there is no way from one to the other, Refused if the conversion does not hold.
    """
    if to not in _QUANTIZED_FROM:
        raise InvalidInput(f"{model.name} is not quantized to {to}; choose litert, onnx or openvino")
    # OpenVINO's own quantizer starts from ONNX.
    wanted = Format.ONNX if to is Format.OPENVINO else to
    if model.format in (wanted, to):
        return model
    step = ConvertRecipe(to=Target(wanted.value))
    return convert(model, step, data=data if isinstance(data, Prepared) else None, progress=progress)[0]


def require_plain(recipe: QuantizeRecipe) -> None:
    """Raise InvalidInput if a recipe asks for what is not done layer by layer."""
    if recipe.equalize or recipe.keep_float or recipe.keep_int8:
        raise InvalidInput(
            "layers are measured on the model as it is and chosen by what is measured; leave out equalize "
            "(equalise the model first), keep_float and keep_int8"
        )


def compare(before: Model, after: Model, judged: Mapping[str, NDArray[Any]], recipe: QuantizeRecipe) -> QuantizeReport:
    """The quantized model beside the float one on real inputs by name, in the runtime that devices use.

    Raises Refused if an output is lost, or is NaN or infinite.
    """
    expected, made = before.run(judged), after.run(_renamed(judged, before, after))
    missing = [spec.name for spec in before.outputs if spec.name not in made]
    if missing:
        raise Refused(f"the quantized model lost the output {missing[0]!r}; it has {', '.join(made)}")
    require_finite(before, expected)
    require_finite(after, made)
    main = LOGITS if LOGITS in expected else before.outputs[0].name
    error = np.abs(np.asarray(made[main], np.float64) - np.asarray(expected[main], np.float64))
    count = len(error)
    rivals = expected[main].reshape(count, -1).shape[1] > 1
    agree = _best(made[main]) == _best(expected[main])
    return QuantizeReport(
        engine=ENGINES[after.format],
        precision=Precision.MIXED if recipe.keep_float or recipe.keep_int8 else recipe.precision,
        scheme=_scheme(before, after, recipe),
        size_before_bytes=before.size_bytes,
        size_after_bytes=after.size_bytes,
        samples=count,
        agreement=float(agree.mean()) if rivals else None,
        max_abs_error=float(error.max()),
        mean_abs_error=float(error.mean()),
        kept_float=recipe.keep_float,
    )


def _best(scores: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray(scores.reshape(len(scores), -1).argmax(axis=1))


def _renamed(feeds: Mapping[str, NDArray[Any]], before: Model, after: Model) -> dict[str, NDArray[Any]]:
    """Feeds under the names that the quantized model gave its inputs: its own where there is only one."""
    names = {spec.name for spec in after.inputs}
    if set(feeds) == names:
        return dict(feeds)
    if len(names) == 1 and len(feeds) == 1:
        return {next(iter(names)): next(iter(feeds.values()))}
    raise Refused(f"the quantized model has inputs {', '.join(sorted(names))}; {before.name} has {', '.join(feeds)}")


def _scheme(before: Model, after: Model, recipe: QuantizeRecipe) -> str:
    if before.format is Format.LITERT and is_uint8(before.data):
        return f"{recipe.precision}: weights symmetric per channel, activations with the ranges of the uint8 file"
    words = in_words(recipe)
    if after.format is Format.LITERT and recipe.precision.startswith("int4"):
        wide = eight_bit_operators(after.data)
        return words + (f"; 8-bit weights in {len(wide)} layers: {', '.join(wide)}" if wide else "")
    return words


def _equalized(model: Model, recipe: QuantizeRecipe) -> Model:
    if not recipe.equalize:
        return model
    if model.format is not Format.KERAS:
        raise InvalidInput(f"equalisation changes the layers of Keras models; {model.name} is a {model.format} model")
    return equalize(model).after("equalize", EqualizeRecipe(), before=model)


def _run_engine(
    model: Model,
    source: bytes,
    to: Format,
    recipe: QuantizeRecipe,
    calibration: dict[str, NDArray[Any]],
    ranges: Mapping[str, tuple[float, float]],
) -> bytes:
    if to is Format.LITERT:
        return _run_litert(model, source, recipe, calibration, ranges)
    if ranges:
        raise InvalidInput(f"ranges that training learned are used by litert only; {to} calibrates its own")
    if recipe.keep_int8:
        raise InvalidInput(f"4 bits beside 8 are made for litert only, not for {to}; leave out keep_int8")
    if to is Format.ONNX:
        from edgeloop.toolchain.quantize.onnx import quantize_onnx

        return quantize_onnx(source, recipe, calibration)
    from edgeloop.toolchain.quantize.openvino import quantize_openvino

    return quantize_openvino(source, recipe, calibration)


def _run_litert(
    model: Model,
    source: bytes,
    recipe: QuantizeRecipe,
    calibration: dict[str, NDArray[Any]],
    ranges: Mapping[str, tuple[float, float]],
) -> bytes:
    named: Ranges = dict(ranges)
    if model.format is Format.KERAS and (ranges or recipe.keep_float or recipe.keep_int8):
        graph = Graph(source)
        layers = operators_of_layers(model.native, graph, calibration)
        named = {graph.name(layers[name].outputs[0]): ends for name, ends in ranges.items() if name in layers}
        recipe = msgspec.structs.replace(
            recipe,
            keep_float=scopes_of(recipe.keep_float, layers, graph),
            keep_int8=scopes_of(recipe.keep_int8, layers, graph),
        )
    return quantize_litert(source, recipe, calibration, ranges=named)


def _require_fitting(model: Model, given: Mapping[str, NDArray[Any]]) -> None:
    shapes = {spec.name: tuple(spec.shape[1:]) for spec in model.inputs}
    if set(given) != set(shapes):
        raise InvalidInput(
            f"data is for inputs {', '.join(sorted(given))}; {model.name} has {', '.join(sorted(shapes))}"
        )
    for name, array in given.items():
        if array.shape[1:] != shapes[name]:
            raise InvalidInput(f"input {name!r} of {model.name} takes {shapes[name]} a sample, got {array.shape[1:]}")
