"""Models on this machine: train, pack, inspect, predict."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from edgeloop.cli.progress import progress_bar
from edgeloop.cli.show import AsJson, console, emit_json, percent, show_table, size
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.toolchain.nets.build import NetName

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeloop.contracts.prediction import Prediction
    from edgeloop.runtime.predictor import Predictor

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
    build: Annotated[Path, typer.Argument(help="A build folder.")],
    name: Annotated[str, typer.Option(help="The bundle's name.")],
    version: Annotated[str, typer.Option(help="MAJOR.MINOR.PATCH.")],
    out: Annotated[Path, typer.Option("--out", help="Where NAME-VERSION.edgeloop goes.")],
    max_drop: Annotated[float | None, typer.Option(help="Points of accuracy that a variant may lose.")] = None,
    max_size_kb: Annotated[float | None, typer.Option(help="Kilobytes that a variant may have.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Median latency that a variant may have, here and on every device.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pack a build into a bundle, unless it misses a bound; then nothing is written."""
    from edgeloop.toolchain import package

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
    console.print(
        f"[bold]{manifest.ref}[/]  {manifest.task}, {len(manifest.labels)} labels: {escape(' '.join(manifest.labels))}"
    )
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
        console.print(f"  {key}: {value}", style="dim", highlight=False, markup=False)


def predict(
    bundle: Annotated[Path, typer.Argument(help="A bundle file.")],
    source: Annotated[str, typer.Argument(help="An image, a folder of images, or - for an image on standard input.")],
    engine: Annotated[str | None, typer.Option(help="litert, onnxruntime or openvino, to insist on one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Predict for an image, a folder of them, or standard input."""
    from edgeloop.runtime.predictor import load

    predictor = load(bundle, engine=engine)
    rows = []
    failed = 0
    for name, made in _predictions(predictor, source):
        if isinstance(made, Corrupt | InvalidInput):
            failed += 1
            typer.echo(f"{made.code}: {made}", err=True)
        elif as_json:
            emit_json({"source": name, "prediction": made})
        else:
            runner_up = made.top[1] if len(made.top) > 1 else made.top[0]
            second = f"{runner_up.label} {percent(runner_up.score)}"
            rows.append((name, made.label or "none", percent(made.score), second, f"{made.latency_ms:.3f} ms"))
    if rows:
        show_table(
            f"{predictor.manifest.ref} on {predictor.variant.engine} {predictor.variant.precision}",
            ("image", "label", "score", "then", "latency"),
            rows,
        )
    if failed:
        raise Corrupt(f"{failed} of the inputs could not be read; the lines above name them")


def _predictions(predictor: "Predictor", source: str) -> "Iterator[tuple[str, Prediction | Corrupt | InvalidInput]]":
    for name, data in _inputs(source):
        try:
            yield name, predictor.predict(data)
        except (Corrupt, InvalidInput) as error:
            yield name, type(error)(f"{name}: {error}")


def _inputs(source: str) -> "Iterator[tuple[str, bytes]]":
    from edgeloop.runtime.input.images import IMAGE_SUFFIXES

    if source == "-":
        yield "stdin", sys.stdin.buffer.read()
        return
    path = Path(source)
    if path.is_dir():
        images = sorted(one for one in path.iterdir() if one.is_file() and one.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise NotFound(f"{path} holds no images; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
        for image in images:
            yield image.name, image.read_bytes()
        return
    if not path.is_file():
        raise NotFound(f"there is no image or folder {path}")
    yield path.name, path.read_bytes()
