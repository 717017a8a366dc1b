"""Convert a model, and prove the result against it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.model import Data
from edgeloop.cli.show import AsJson, emit_json, percent, show_table, size
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import Precision


class Target(StrEnum):
    """What to convert to."""

    LITERT = "litert"
    ONNX = "onnx"


def convert(
    model: Annotated[Path, typer.Argument(help="A .keras model.")],
    to: Annotated[Target, typer.Option("--to", help="The format.")],
    out: Annotated[Path, typer.Option("--out", help="The build folder; variants of one model gather in it.")],
    precision: Annotated[Precision, typer.Option(help="float32 or int8.")] = Precision.FLOAT32,
    calibrate: Annotated[str, typer.Option(help="The dataset that calibrates and proves: digits.")] = "digits",
    data: Data = "bundled",
    seed: Annotated[int, typer.Option(help="The seed that the model was trained with: it splits the data.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Convert a model and prove the result against it, sample by sample, in the runtime that devices use."""
    from rich.console import Console

    from edgeloop.toolchain.build import BuildFolder
    from edgeloop.toolchain.convert.keras import export_keras
    from edgeloop.toolchain.data.dataset import prepare
    from edgeloop.toolchain.data.open import open_dataset
    from edgeloop.toolchain.draft import add_variant, begin_draft
    from edgeloop.toolchain.quantize.litert import quantize_int8
    from edgeloop.toolchain.source.engine import wrap_runnable
    from edgeloop.toolchain.source.model import Format
    from edgeloop.toolchain.source.open import open_model

    known = {(Target.LITERT, Precision.FLOAT32), (Target.LITERT, Precision.INT8), (Target.ONNX, Precision.FLOAT32)}
    if (to, precision) not in known:
        raise InvalidInput(
            f"Keras to {to} at {precision} is not done by this version; known: "
            f"{', '.join(sorted(f'{to} {precision}' for to, precision in known))}"
        )
    with Console(stderr=True).status("converting and checking"):
        source = open_model(model)
        prepared = prepare(open_dataset(calibrate, source=data, seed=seed), source.only_input())
        recipe: dict[str, str | int | float | bool] = {
            "model": model.name,
            "calibrate": calibrate,
            "source": data,
            "seed": seed,
        }
        draft = begin_draft(source, prepared, BuildFolder(out), recipe=recipe)
        form = Format.LITERT if to is Target.LITERT else Format.ONNX
        made = export_keras(source, form)
        if precision is Precision.INT8:
            made = quantize_int8(made, prepared.tensors(prepared.dataset.fit.take(256).inputs), prepared.spec.name)
        build = add_variant(draft, wrap_runnable(made, form, name=f"{model.stem} {to} {precision}"), precision).build
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
    show_table(f"{out}", columns, rows, note=f"float model: {held_out}, {size(build.size_float_bytes)}")
