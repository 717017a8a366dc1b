"""The search and what came of it: compress, compare, repeat."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.markup import escape

from edgeloop.cli.progress import progress_bar
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import AsJson, console, percent, show_table, size
from edgeloop.cli.units import parse_duration_s, parse_range, parse_size_bytes
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import EngineName, Precision

if TYPE_CHECKING:
    from edgeloop.toolchain.compress.report import CompressReport

TrustPickle = Annotated[bool, typer.Option("--trust-pickle", help="Load pickled models: they can run code.")]

Word = TypeVar("Word", EngineName, Precision)

_ENGINES = ",".join((EngineName.LITERT,))
_PRECISIONS = ",".join((Precision.INT8, Precision.INT8_WEIGHTS, Precision.FLOAT16, Precision.FLOAT32))


def compress(
    model: Annotated[
        Path, typer.Argument(help="A trained model: .keras, .h5, .onnx, .tflite, .pt2, .skops, a folder.")
    ],
    data: Annotated[str, typer.Option(help="What trains students and judges: digits, a folder, a .csv, a .npz.")],
    out: Annotated[Path, typer.Option(help="The search's folder; one that was begun is gone on with.")] = Path("build"),
    max_drop: Annotated[float | None, typer.Option(help="Points of accuracy that may be lost.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Bytes that the model may have, such as 16KB.")] = None,
    max_latency: Annotated[str | None, typer.Option(help="Median latency on the profile, such as 2ms.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Peak memory of a process that runs it, such as 60MB.")] = None,
    profile: Annotated[str, typer.Option(help="The device: this, a profile's name, or a profile's file.")] = "this",
    budget: Annotated[str | None, typer.Option(help="Time in all; 10min where --trials is not given.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="End after so many: the same result anywhere.")] = None,
    images_seen: Annotated[
        int, typer.Option(min=0, help="Training images in the shortest training; 0 suits it to the budget.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="The same seed tries the same, and splits data the same.")] = 0,
    engines: Annotated[str, typer.Option(help="Engines to search for, with commas.")] = _ENGINES,
    precisions: Annotated[str, typer.Option(help="Precisions to search among, with commas.")] = _PRECISIONS,
    input_range: Annotated[str, typer.Option(help="What the model takes for black..white of images.")] = "0..1",
    workers: Annotated[int | None, typer.Option(min=1, help="Trials at once; one a core unless told.")] = None,
    on: Annotated[str, typer.Option(help="A Ray cluster that does the trials, such as ray://10.0.0.7:10001.")] = "",
    name: Annotated[str | None, typer.Option(help="The bundles' name; the model's file name unless told.")] = None,
    version: Annotated[str, typer.Option(help="The bundles' version.")] = "1.0.0",
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Load pickled models: they can run code.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search for the best small models under your bounds; each proven, the front as table, JSON and page."""
    from edgeloop.toolchain.compress.compress import Origin, student_data
    from edgeloop.toolchain.compress.compress import compress as search
    from edgeloop.toolchain.compress.plan import CompressRecipe
    from edgeloop.toolchain.data.open import open_dataset
    from edgeloop.toolchain.package import Bounds
    from edgeloop.toolchain.source.open import open_model
    from edgeloop.toolchain.teacher import student_input

    recipe = CompressRecipe(
        bounds=Bounds(
            max_drop_points=max_drop,
            max_size_bytes=None if max_size is None else parse_size_bytes(max_size),
            max_latency_p50_ms=None if max_latency is None else 1000 * parse_duration_s(max_latency),
            max_memory_bytes=None if max_memory is None else parse_size_bytes(max_memory),
        ),
        profile=profile,
        budget_s=_budget_s(budget, trials),
        images_seen=images_seen,
        trials=trials,
        seed=seed,
        engines=_words(EngineName, engines),
        precisions=_words(Precision, precisions),
    )
    with progress_bar("reading model and data") as progress:
        source = open_model(model, trust_pickle=trust_pickle)
        dataset = open_dataset(data, taken=student_input(source), seed=seed)
        prepared = student_data(source, dataset, value_range=parse_range(input_range))
        called = name or _plain_name(model)
        origin = Origin(
            model=str(model), data=data, data_seed=seed, name=called, version=version, trust_pickle=trust_pickle
        )
        try:
            report = search(
                source, recipe, prepared, out=out, origin=origin, crew_size=on or workers or os.cpu_count() or 1,
                progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            typer.echo(f"ended early; the same command goes on from what lies in {out}", err=True)
            raise
    _show(report, out, as_json=as_json)


def compare(
    build: Annotated[Path, typer.Argument(help="A search's folder.")] = Path("build"),
    as_json: AsJson = False,
) -> None:
    """Show all candidates of a search as a table; the picture is its front.html, written anew."""
    from edgeloop.toolchain.compress.compress import compare as all_candidates

    _show(all_candidates(build), build, as_json=as_json)


def repeat(
    bundle: Annotated[Path, typer.Argument(help="A bundle that edgeloop made.")],
    model: Annotated[Path | None, typer.Option(help="The source model, if it lies elsewhere now.")] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="The data, if it lies elsewhere now; once for each that steps took.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for the models that were made again.")] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Load pickled models: they can run code.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a bundle's model again from its lineage, and say whether it is the same, byte for byte."""
    from edgeloop.toolchain.repeat import Sources
    from edgeloop.toolchain.repeat import repeat as again

    with progress_bar("reading the lineage") as progress:
        sources = Sources(model=model, data=tuple(data or ()), trust_pickle=trust_pickle)
        report = again(bundle, sources=sources, out=out, progress=progress)
    if as_json:
        emit_json(report)
        return
    rows = [
        (
            f"{one.engine} {one.precision}",
            f"{one.size_bytes:,} B, was {one.size_was_bytes:,} B",
            "yes" if one.same_bytes else "no",
            "-" if one.max_abs_error is None else f"{one.max_abs_error:.2g}",
        )
        for one in report.variants
    ]
    note = f"{report.seconds:.0f} s; " + (
        f"other libraries now: {', '.join(report.libraries)}" if report.libraries else "libraries are the same"
    )
    show_table(f"{report.bundle}, made again", ("variant", "size", "same bytes", "max error"), rows, note=note)


def _show(report: "CompressReport", out: Path, *, as_json: bool) -> None:
    if as_json:
        emit_json(report)
        return
    rows = []
    for one in report.candidates:
        took = one.target_latency_ms
        rows.append(
            (
                f"{one.number}{' *' if one.on_front else ''}",
                size(one.size_bytes),
                f"{one.lost_points:+.2f}",
                "unknown" if took is None else f"{took:.3g} ms{'' if one.latency_is == 'measured' else ' est.'}",
                f"{one.memory_bytes / 2**20:.0f} MB",
                "no" if one.misses else "yes",
                "\n".join((escape(one.title), *(f"[dim]{escape(miss)}[/]" for miss in one.misses))),
            )
        )
    baseline = report.baseline
    note = (
        f"the source: {size(baseline.size_bytes)}, {percent(baseline.accuracy)} right on {baseline.samples:,} held-out "
        "samples; lost: points of these; meets: all bounds; * on the front; "
        f"{report.trials} trials in {report.spent_s:.0f} s"
    )
    columns = ("trial", "size", "lost", "latency", "memory", "meets", "what")
    device = "this machine" if report.profile == "this" else report.profile
    show_table(f"{report.model} for {device}", columns, rows, note=note)
    for failure in report.failures:
        console.print(f"gave no model: {failure}", style="dim", highlight=False, markup=False)
    bundles = [one.bundle for one in report.candidates if one.bundle]
    if bundles:
        count = "1 bundle keeps" if len(bundles) == 1 else f"{len(bundles)} bundles keep"
        console.print(f"{count} to the bounds, the smallest: {bundles[0]}", highlight=False)
    else:
        console.print(
            "no bundle is written: no candidate keeps to all bounds; each line above says by how much it misses"
        )
    console.print(f"the picture: {out / 'front.html'}", highlight=False)


def _budget_s(budget: str | None, trials: int | None) -> float | None:
    if budget is None:
        return 600.0 if trials is None else None
    return parse_duration_s(budget)


def _words(kind: type[Word], text: str) -> tuple[Word, ...]:
    """The words of a list with commas. Raises InvalidInput naming one that is none of them."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in set(kind):
            raise InvalidInput(f"{word!r} is not known; known: {', '.join(kind)}")
    return tuple(kind(word) for word in words)


def _plain_name(path: Path) -> str:
    """A bundle's name from a file's: small letters, digits and dashes."""
    plain = "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in path.stem.lower()).strip("-")
    return plain or "model"
