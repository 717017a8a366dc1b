"""Convert a model, and prove the result against it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from edgeloop.cli.progress import progress_bar
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import AsJson, console, percent, show_table, size
from edgeloop.cli.units import parse_range
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Precision
from edgeloop.toolchain.targets import Target

if TYPE_CHECKING:
    from edgeloop.toolchain.convert.convert import ConvertRecipe, ConvertReport
    from edgeloop.toolchain.data.dataset import Prepared
    from edgeloop.toolchain.draft import Draft, Recipe
    from edgeloop.toolchain.source.model import Model
    from edgeloop.toolchain.variant import Made

_SUFFIX = {Target.LITERT: ".tflite", Target.ONNX: ".onnx", Target.OPENVINO: ".openvino", Target.MCU: ".h"}
_MODEL_SUFFIXES = (*_SUFFIX.values(), ".keras", ".h5", ".pt2", ".skops")


def convert(
    model: Annotated[
        Path, typer.Argument(help="A model: .keras, .h5, a SavedModel folder, .pt2, .skops, .onnx, .tflite.")
    ],
    to: Annotated[Target, typer.Option("--to", help="The format.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="A file; or a build folder, where variants gather for 'pack'. Unless told, a file beside MODEL.",
        ),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Below float32 it is quantized, calibrated on the data.")] = (
        Precision.FLOAT32
    ),
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate", "--data", help="Real samples that prove and calibrate: digits, a folder, a .csv, a .npz."
        ),
    ] = None,
    source: Annotated[
        str, typer.Option(help="Where digits come from: 'bundled', 'keras', or a folder of IDX files.")
    ] = "bundled",
    seed: Annotated[int, typer.Option(help="The seed that the model was trained with: it splits the data.")] = 0,
    shape: Annotated[
        list[str] | None, typer.Option(help="The shape of an ONNX input with free axes, as NAME=1,3,224,224.")
    ] = None,
    input_range: Annotated[str, typer.Option(help="What the model takes for black..white of images.")] = "0..1",
    simplify: Annotated[bool, typer.Option("--simplify/--as-it-is", help="Fold what is constant in ONNX.")] = True,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Load a pickled estimator, which runs whatever code it holds.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Convert a model and prove the result against it, sample by sample, in the runtime that devices use."""
    from edgeloop.toolchain.convert.convert import ConvertRecipe
    from edgeloop.toolchain.source.open import open_model
    from edgeloop.toolchain.variant import make_variant

    into_folder = out is not None and out.suffix not in _MODEL_SUFFIXES
    target = None if into_folder else _file(model, to, precision, out)
    if into_folder and (calibrate is None or to is Target.MCU):
        raise InvalidInput(
            f"--out {out} is a build folder, which takes variants that a bundle may hold and data with labels that "
            f"proves them (--calibrate DATA); for a file, name it {model.stem}{_SUFFIX[to]}"
        )
    shapes, span = parse_shapes(shape or []), parse_range(input_range)
    with progress_bar("reading the model") as progress:
        opened = open_model(model, shapes=shapes, trust_pickle=trust_pickle)
        recipe = ConvertRecipe(to=to, shapes=shapes, simplify=simplify, input_range=span, seed=seed)
        prepared = None if calibrate is None else _data(opened, calibrate, source, seed, span)
        made = make_variant(opened, recipe, precision, prepared, progress=progress)
        draft = None
        if into_folder and out is not None and prepared is not None:
            facts: Recipe = {
                "model": str(model),
                "data": str(calibrate),
                "source": source,
                "seed": seed,
                "input_range": input_range,
            }
            draft = _gather(opened, made.model, prepared, out, precision, facts)
    if draft is not None:
        _show_draft(draft, f"{out}", as_json=as_json)
    elif target is not None:
        _write(made, target, calibrate, recipe, as_json=as_json)


def parse_shapes(given: list[str]) -> dict[str, tuple[int, ...]]:
    """NAME=1,3,224,224 each. Raises InvalidInput on anything else.

    >>> parse_shapes(["image=1,3,8,8", "mask=1,8"])
    {'image': (1, 3, 8, 8), 'mask': (1, 8)}
    """
    shapes = {}
    for one in given:
        name, _, sizes = one.rpartition("=")
        parts = sizes.split(",")
        if not name or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
            raise InvalidInput(f"--shape {one!r} is no shape; write it as NAME=1,3,224,224, with the batch axis")
        shapes[name] = tuple(int(part) for part in parts)
    return shapes


def _file(model: Path, to: Target, precision: Precision, out: Path | None) -> Path:
    suffix = _SUFFIX[to]
    middle = "" if precision is Precision.FLOAT32 else f".{precision}"
    path = out or model.with_name(f"{model.stem}{middle}{suffix}")
    if path.suffix != suffix:
        raise InvalidInput(f"--out {path} is to hold {to}; its name must end in {suffix}")
    if path.absolute() == model.absolute():
        raise InvalidInput(f"the result would replace {model} itself; name another file with --out")
    return path


def _data(model: "Model", where: str, source: str, seed: int, span: tuple[float, float]) -> "Prepared":
    from edgeloop.toolchain.data.open import calibration_samples

    return calibration_samples(where, model.only_input(), source=source, seed=seed, value_range=span)


def _gather(
    model: "Model", made: "Model", data: "Prepared", out: Path, precision: Precision, facts: "Recipe"
) -> "Draft":
    from edgeloop.toolchain.build import BuildFolder
    from edgeloop.toolchain.draft import add_variant, begin_draft

    draft = begin_draft(model, data, BuildFolder(out), recipe=facts)
    return add_variant(draft, made, precision)


def _show_draft(draft: "Draft", where: str, *, as_json: bool) -> None:
    build = draft.build
    if as_json:
        emit_json(build.variants)
        return
    rows = []
    for variant in build.variants:
        measured = variant.measured
        assert measured is not None
        rows.append(
            (
                f"{variant.engine} {variant.precision}",
                size(variant.size_bytes),
                percent(measured.accuracy),
                percent(measured.agreement),
                f"{measured.max_abs_error:.4f}",
                f"{measured.latency_p50_ms:.3f} ms",
                f"{measured.latency_p99_ms:.3f} ms",
            )
        )
    columns = ("variant", "size", "accuracy", "agrees with float", "max error", "p50", "p99")
    held_out = f"{percent(build.accuracy_float)} on {len(draft.judged)} held-out samples"
    show_table(escape(where), columns, rows, note=f"float model: {held_out}, {size(build.size_float_bytes)}")


def _write(made: "Made", path: Path, data: str | None, recipe: "ConvertRecipe", *, as_json: bool) -> None:
    from edgeloop.toolchain.source.save import save_model

    report = made.converted or made.quantized
    assert report is not None
    save_model(made.model, path, report=made.quantized or report)
    if as_json:
        emit_json({"model": str(path), "converted": made.converted, "quantized": made.quantized})
        return
    console.print(f"{path}: {size(made.model.size_bytes)}", markup=False, highlight=False)
    if made.converted is not None:
        _show_proof(made.converted, data, recipe)
    if made.quantized is not None:
        found = made.quantized
        console.print(
            f"{found.scheme}; {percent(found.agreement)} of answers agree with the float model's on {found.samples} "
            f"samples, scores off by {found.max_abs_error:.3g} at most, {found.mean_abs_error:.3g} on average",
            highlight=False,
        )


def _show_proof(report: "ConvertReport", data: str | None, recipe: "ConvertRecipe") -> None:
    low, high = recipe.input_range
    on = (
        f"{report.samples} samples of {data}"
        if report.real
        else (f"{report.samples} random inputs in {low:g}..{high:g}, not on real ones (--calibrate DATA gives some)")
    )
    show_table(
        f"{report.source_format} to {report.to}",
        ("output", "largest error", "mean error", "allowed"),
        [
            (escape(one.name), f"{one.max_abs_error:.2g}", f"{one.mean_abs_error:.2g}", f"{one.allowed:.2g}")
            for one in report.parity
        ],
        note=escape(f"proven on {on}"),
    )
    counted = ", ".join(f"{name} {count}" for name, count in report.operators.items())
    console.print(f"operators: {counted}", style="dim", markup=False, highlight=False)
    if report.arena_bytes is not None:
        console.print(f"arena: {report.arena_bytes:,} bytes on a 64-bit machine", highlight=False)
