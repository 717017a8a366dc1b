"""Quantize a model: fewer bits, calibrated and judged on real samples."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from edgeloop.cli.given import refuse_ignored
from edgeloop.cli.progress import progress_bar
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import AsJson, console, percent, show_table, size
from edgeloop.cli.units import parse_range
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.quantize.recipe import Calibration, Granularity, QuantizeRecipe, QuantizeReport, Symmetry

if TYPE_CHECKING:
    from edgeloop.toolchain.data.dataset import Prepared
    from edgeloop.toolchain.progress import Progress
    from edgeloop.toolchain.source.model import Model


class Engine(StrEnum):
    """What a model is quantized for."""

    LITERT = "litert"
    ONNX = "onnx"
    OPENVINO = "openvino"


def quantize(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A float model: .keras, .h5, .tflite, .onnx, a SavedModel folder.")],
    calibrate: Annotated[
        str, typer.Option(help="Real samples that calibrate and judge: digits, a folder, a .csv, a .npz.")
    ],
    precision: Annotated[
        Precision, typer.Option(help="int8, int16, int4; int8_ and int4_ with dynamic or weights; float16.")
    ] = (Precision.INT8),
    weights: Annotated[
        Symmetry, typer.Option(help="Where zero lies among the weights' integers.")
    ] = Symmetry.SYMMETRIC,
    activations: Annotated[Symmetry, typer.Option(help="Where zero lies among the activations' integers.")] = (
        Symmetry.ASYMMETRIC
    ),
    per: Annotated[Granularity, typer.Option("--per", help="One scale a weight tensor, or one an output channel.")] = (
        Granularity.CHANNEL
    ),
    calibration: Annotated[Calibration, typer.Option(help="How the range of activations is picked.")] = (
        Calibration.MIN_MAX
    ),
    percentile: Annotated[float, typer.Option(help="Share of values that --calibration percentile keeps.")] = 99.99,
    samples: Annotated[int, typer.Option(min=16, help="Calibrate on at most so many samples.")] = 256,
    equalize: Annotated[
        bool, typer.Option("--equalize", help="Equalise channels of neighbouring layers first.")
    ] = False,
    correct_bias: Annotated[
        bool, typer.Option("--correct-bias", help="Take what rounding shifts off the biases.")
    ] = False,
    keep_float: Annotated[list[str] | None, typer.Option(help="A layer that stays as it is; again for more.")] = None,
    min_agreement: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Mix precisions: raise the worst layers until this share agrees."),
    ] = None,
    aware: Annotated[int, typer.Option(min=0, help="Fine-tune a Keras model with rounding on so many samples.")] = 0,
    to: Annotated[
        Engine | None, typer.Option("--to", help="The engine; unless told the model's own, litert where it has none.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The file; beside MODEL unless told.")] = None,
    source: Annotated[
        str, typer.Option(help="Where digits come from: 'bundled', 'keras', or a folder of IDX files.")
    ] = "bundled",
    seed: Annotated[int, typer.Option(help="The seed that the model was trained with: it splits the data.")] = 0,
    input_range: Annotated[str, typer.Option(help="What the model takes for black..white of images.")] = "0..1",
    as_json: AsJson = False,
) -> None:
    """Store and compute with fewer bits, calibrated on real samples; prints what it costs in agreement and error."""
    from edgeloop.toolchain.data.open import calibration_samples
    from edgeloop.toolchain.source.open import open_model
    from edgeloop.toolchain.source.save import SUFFIX, save_model

    if calibration is not Calibration.PERCENTILE:
        refuse_ignored(context, ("percentile",), "is used with --calibration percentile only")
    recipe = QuantizeRecipe(
        precision=precision,
        weights=weights,
        activations=activations,
        granularity=per,
        calibration=calibration,
        percentile=percentile,
        calibration_samples=samples,
        equalize=equalize,
        correct_bias=correct_bias,
        keep_float=tuple(keep_float or ()),
        seed=seed,
    )
    span = parse_range(input_range)
    with progress_bar("reading model and data") as progress:
        opened = open_model(model)
        data = calibration_samples(calibrate, opened.only_input(), source=source, seed=seed, value_range=span)
        if min_agreement is None:
            made, report = _quantized(opened, recipe, data, to, aware, progress)
        else:
            made, report = _mixed(opened, recipe, data, min_agreement, to, aware, progress)
    path = out or model.with_name(f"{model.stem}.{report.precision}{SUFFIX[made.format]}")
    if path.absolute() == model.absolute():
        raise InvalidInput(f"--out {path} is the model itself; name another file")
    save_model(made, path, report=report)
    _show(path, report, as_json=as_json)


def _quantized(
    model: "Model", recipe: QuantizeRecipe, data: "Prepared", to: Engine | None, aware: int, progress: "Progress"
) -> tuple["Model", QuantizeReport]:
    from edgeloop.toolchain.quantize.quantize import quantize as run
    from edgeloop.toolchain.source.model import Format

    target = None if to is None else Format(to.value)
    if not aware:
        return run(model, recipe, data, to=target, progress=progress)
    from edgeloop.toolchain.quantize.aware import AwareRecipe, QuantizeAwareRecipe, quantize_aware

    how = QuantizeAwareRecipe(aware=AwareRecipe(images_seen=aware, seed=recipe.seed), quantize=recipe)
    return quantize_aware(model, how, data, to=target, progress=progress)


def _mixed(
    model: "Model",
    recipe: QuantizeRecipe,
    data: "Prepared",
    min_agreement: float,
    to: Engine | None,
    aware: int,
    progress: "Progress",
) -> tuple["Model", QuantizeReport]:
    from edgeloop.toolchain.quantize.sensitivity import MixedRecipe, mixed

    if aware or to not in (None, Engine.LITERT):
        raise InvalidInput("--min-agreement mixes precisions for litert, without --aware; leave out one of them")
    return mixed(model, MixedRecipe(quantize=recipe, min_agreement=min_agreement), data, progress=progress)


def _show(path: Path, report: QuantizeReport, *, as_json: bool) -> None:
    if as_json:
        emit_json({"model": str(path), "report": report})
        return
    row = (
        size(report.size_before_bytes),
        size(report.size_after_bytes),
        f"{report.size_before_bytes / report.size_after_bytes:.1f} times",
        percent(report.agreement),
        f"{report.max_abs_error:.3g}",
        f"{report.mean_abs_error:.3g}",
    )
    columns = ("before", "after", "smaller", "agrees with float", "max error", "mean error")
    judged = f"judged on {report.samples} samples on {report.engine}"
    show_table(escape(f"{path}"), columns, [row], note=escape(f"{report.scheme}; {judged}"))
    for one in report.sensitivity[:5]:
        console.print(
            f"  {one.operator} {one.name.split(';')[0]}: error {one.error:.2g} alone", markup=False, highlight=False
        )
