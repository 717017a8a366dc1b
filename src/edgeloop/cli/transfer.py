"""Transfer learning: a backbone's eyes, a new end."""

from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.progress import progress_bar
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import AsJson, console, percent, size
from edgeloop.cli.units import parse_range
from edgeloop.contracts.errors import InvalidInput


def transfer(
    backbone: Annotated[Path, typer.Argument(help="A trained Keras model that takes images: .keras or .h5.")],
    data: Annotated[str, typer.Option("--data", help="Images by class: a folder, IDX files, a .npz, digits.")],
    out: Annotated[Path, typer.Option("--out", help="Where the .keras classifier goes.")],
    input_range: Annotated[
        str, typer.Option(help="What the backbone was trained to take for black..white: often -1..1 or 0..1.")
    ] = "0..1",
    cut_at: Annotated[
        str | None, typer.Option(help="The last layer to keep; the last one that still has places unless told.")
    ] = None,
    unfreeze: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the backbone's layers to fine-tune; 0 for none.")
    ] = 0.3,
    images_seen: Annotated[int, typer.Option(min=1, help="Images shown while fine-tuning.")] = 4_000,
    learning_rate: Annotated[float, typer.Option(help="Of fine-tuning.")] = 1e-4,
    seed: Annotated[int, typer.Option(help="Splits the data and makes the run repeatable.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a classifier of your images from a trained backbone: a new end first, then its last layers, gently."""
    if out.suffix != ".keras":
        raise InvalidInput(f"--out {out} must end in .keras")
    span = parse_range(input_range)
    from edgeloop.toolchain import transfer as transferring
    from edgeloop.toolchain.data.dataset import prepare
    from edgeloop.toolchain.data.open import open_dataset
    from edgeloop.toolchain.source.open import open_model
    from edgeloop.toolchain.source.save import save_model

    recipe = transferring.TransferRecipe(
        cut_at=cut_at, unfreeze=unfreeze, images_seen=images_seen, learning_rate=learning_rate, seed=seed
    )
    with progress_bar("reading the backbone") as progress:
        opened = open_model(backbone)
        taken = opened.only_input()
        prepared = prepare(open_dataset(data, taken=taken, seed=seed), taken, value_range=span)
        made, report = transferring.transfer(opened, recipe, prepared, progress=progress)
    save_model(made, out, report=report)
    if as_json:
        emit_json(report)
        return
    tuned = "not fine-tuned"
    if report.tuned_accuracy is not None:
        fate = "kept" if report.kept is transferring.Kept.TUNED else "worse, and dropped"
        layers = "the last layer" if report.tuned_layers == 1 else f"the last {report.tuned_layers} layers"
        tuned = f"{percent(report.tuned_accuracy)} with {layers} of the backbone fine-tuned too ({fate})"
    console.print(
        f"{out}: cut at {report.cut_at}, {report.features} features, {size(made.size_bytes)}\n"
        f"on validation images: {percent(report.head_accuracy)} with a new end alone, {tuned}\n"
        f"on {len(prepared.dataset.holdout)} held-out images: {percent(report.holdout_accuracy)} right",
        highlight=False,
        markup=False,
    )
