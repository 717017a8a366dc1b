"""Datasets: get real images out to try things with."""

from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.model import Data
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import AsJson, console
from edgeloop.contracts.errors import InvalidInput

app = typer.Typer(help="Datasets that come with edgeloop.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Datasets that come with edgeloop."""


@app.command()
def export(
    dataset: Annotated[str, typer.Argument(help="digits.")],
    out: Annotated[Path, typer.Option("--out", help="The folder that the images go into.")],
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    part: Annotated[str, typer.Option(help="'field' (no model was trained or judged on it) or 'holdout'.")] = "field",
    data: Data = "bundled",
    seed: Annotated[int, typer.Option(help="The seed that the model was trained with.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Write images as PNG files named NUMBER-LABEL.png."""
    from edgeloop.bundle.durable import write_durable
    from edgeloop.runtime.input.images import encode_png
    from edgeloop.toolchain.data.open import open_dataset

    loaded = open_dataset(dataset, source=data, seed=seed)
    parts = {"field": loaded.field, "holdout": loaded.holdout}
    if part not in parts:
        raise InvalidInput(f"there is no part {part!r}; choose field or holdout")
    chosen = parts[part].take(count)
    names = []
    for index, (image, label) in enumerate(zip(chosen.inputs, chosen.labels, strict=True)):
        names.append(f"{index:05d}-{loaded.label_names[label]}.png")
        write_durable(out / names[-1], encode_png(image))
    if as_json:
        emit_json(names)
        return
    console.print(f"{len(names)} images in {out}, first {names[0]}", highlight=False)
