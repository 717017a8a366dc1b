"""Models on this machine: train, pack, inspect."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from edgeloop.cli.progress import progress_bar
from edgeloop.cli.say import emit_json, printable
from edgeloop.cli.show import AsJson, console, percent, show_table, size
from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.nets.name import NetName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgeloop.contracts.manifest import Manifest

_DESCRIPTION = ".toml"

Data = Annotated[
    str, typer.Option("--data", help="Where digits come from: 'bundled', 'keras', or a folder of IDX files.")
]


def train(
    dataset: Annotated[
        str, typer.Argument(help="What to learn: digits, or a path: images or WAV by class, IDX, .csv, .npz.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Where the .keras model goes.")],
    data: Data = "bundled",
    net: Annotated[NetName, typer.Option(help="The network.")] = NetName.DIGITS,
    width: Annotated[float, typer.Option(help="Factor on the network's channels.")] = 1.0,
    depth: Annotated[int | None, typer.Option(help="Its layers or blocks; the network's own default unless told.")] = (
        None
    ),
    side: Annotated[int | None, typer.Option(min=8, help="Bring images to squares of so many pixels.")] = None,
    grey: Annotated[bool, typer.Option("--grey", help="Take colour images as grey.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same model on the same machine.")] = 0,
    images_seen: Annotated[int, typer.Option(min=1, help="Training samples shown in all.")] = 40_000,
    learning_rate: Annotated[float, typer.Option(help="Of Adam, at the start.")] = 1e-3,
    as_json: AsJson = False,
) -> None:
    """Train a network from scratch: a classifier, or an autoencoder that needs no labels."""
    if out.suffix != ".keras":
        raise InvalidInput(f"--out {out} must end in .keras")
    from dataclasses import replace

    from edgeloop.toolchain import train as training
    from edgeloop.toolchain.data.open import open_dataset
    from edgeloop.toolchain.source.save import save_model

    recipe = training.TrainRecipe(
        data=dataset,
        source=data,
        seed=seed,
        images_seen=images_seen,
        learning_rate=learning_rate,
        net=net,
        width=width,
        depth=depth,
        side_px=side,
        grey=grey,
    )
    loaded = open_dataset(dataset, source=data, taken=training.wanted_input(recipe), seed=seed)
    with progress_bar("loading Keras") as progress:
        made, report = training.train(recipe, loaded, progress=progress)
    save_model(replace(made, name=out.name), out, report=report)
    if as_json:
        emit_json(report)
        return
    judged = "" if report.accuracy is None else f"{percent(report.accuracy)} right, "
    console.print(
        f"{out}: {judged}loss {report.loss:.3f} on {len(loaded.validation)} validation samples, after "
        f"{report.epochs} epochs over {report.fitted_on:,}; {report.parameters:,} parameters",
        highlight=False,
    )


def pack(
    build: Annotated[Path, typer.Argument(help="A build folder, or the description of finished models: a .toml file.")],
    out: Annotated[Path, typer.Option("--out", help="Where NAME-VERSION.edgeloop goes.")],
    name: Annotated[str | None, typer.Option(help="The bundle's name.")] = None,
    version: Annotated[str | None, typer.Option(help="MAJOR.MINOR.PATCH.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Points of accuracy that a variant may lose.")] = None,
    max_size_kb: Annotated[float | None, typer.Option(help="Kilobytes that a variant may have.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Median latency that a variant may have, here and on every device.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pack a build or described models into a bundle, unless a bound is missed; then nothing is written."""
    if build.suffix == _DESCRIPTION:
        given = {"--name": name, "--version": version, "--max-drop": max_drop, "--max-size-kb": max_size_kb}
        _require_none(given | {"--max-latency-ms": max_latency_ms})
        manifest = _pack_described(build, out)
    else:
        from edgeloop.toolchain import package

        if name is None or version is None:
            raise InvalidInput("a build has no name of its own: give it one with --name and --version")
        bounds = package.Bounds(
            max_drop_points=max_drop,
            max_size_bytes=None if max_size_kb is None else int(max_size_kb * 1024),
            max_latency_p50_ms=max_latency_ms,
        )
        manifest = package.pack(build, name=name, version=version, out=out, bounds=bounds)
    if as_json:
        emit_json(manifest)
        return
    console.print(
        f"{out}: {manifest.ref}, {len(manifest.variants)} variants, {size(out.stat().st_size)}", highlight=False
    )


def _require_none(given: "Mapping[str, object]") -> None:
    said = [option for option, value in given.items() if value is not None]
    if said:
        raise InvalidInput(f"{', '.join(said)}: a description says this itself, in its budget too; leave it out")


def _pack_described(description: Path, out: Path) -> "Manifest":
    from edgeloop.toolchain.described.pack import pack_described

    with progress_bar("reading the description") as progress:
        return pack_described(description, out=out, progress=progress)


def inspect(
    bundle: Annotated[Path, typer.Argument(help="A bundle file.")],
    as_json: AsJson = False,
) -> None:
    """Say what a bundle holds, after checking every file of it."""
    from edgeloop.bundle.archive import open_bundle

    opened = open_bundle(bundle)
    opened.verify()
    manifest = opened.manifest
    if as_json:
        emit_json(manifest)
        return
    labels = escape(printable(" ".join(manifest.labels)))
    console.print(f"[bold]{manifest.ref}[/]  {manifest.task}, {len(manifest.labels)} labels: {labels}")
    steps = " → ".join(type(step).__name__.lower() for step in manifest.preprocess)
    console.print(f"input {manifest.input.shape} {manifest.input.modality}: {steps}", highlight=False)
    rows = [
        (
            f"{v.engine} {v.precision}",
            size(v.size_bytes),
            percent(v.measured.accuracy if v.measured else None),
            f"{v.measured.latency_p50_ms:.3f} ms" if v.measured else "-",
            size(v.measured.peak_memory_bytes) if v.measured else "-",
            v.file[:12],
        )
        for v in manifest.variants
    ]
    show_table("variants", ("variant", "size", "accuracy", "p50", "peak memory", "file"), rows)
    golden = manifest.golden
    console.print(f"{golden.count} golden samples; {len(manifest.files)} files, all sound", highlight=False)
    if manifest.lineage.parent:
        console.print(f"made from {manifest.lineage.parent}", highlight=False)
    for key, value in sorted(manifest.lineage.recipe.items()):
        lines = str(value).splitlines()
        told = value if len(lines) < 2 else f"{len(lines)} lines, see --json"
        console.print(f"  {key}: {told}", style="dim", highlight=False, markup=False)
