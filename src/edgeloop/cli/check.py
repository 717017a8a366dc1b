"""Hold a model against another one: answers, size, speed, memory, a device, bounds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from edgeloop.cli.progress import progress_bar
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import AsJson, console, percent, show_table, size
from edgeloop.cli.units import parse_duration_s, parse_range, parse_size_bytes
from edgeloop.contracts.errors import Refused

if TYPE_CHECKING:
    from edgeloop.toolchain.check import CheckReport
    from edgeloop.toolchain.outputs import Classified
    from edgeloop.toolchain.profiles.target import Estimate
    from edgeloop.toolchain.weigh import OnDevice

_SHOWN_LABELS = 10


def check(
    candidate: Annotated[Path, typer.Argument(help="The model to judge: .tflite, .onnx, .keras, ...")],
    against: Annotated[Path, typer.Option("--against", help="The model that it is to answer like.")],
    data: Annotated[
        str | None, typer.Option(help="Real samples: digits, a folder, a .csv, a .npz; random numbers unless told.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="The device: this, a name ('edgeloop profile list'), or a profile's .json file.")
    ] = "this",
    max_drop: Annotated[float | None, typer.Option(help="Points of accuracy that it may lose.")] = None,
    max_size: Annotated[
        str | None, typer.Option(help="What its file may have, such as 16KB; 1 KB is 1024 bytes.")
    ] = None,
    max_latency: Annotated[str | None, typer.Option(help="Median latency on the profile, such as 2ms.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Peak memory of a process that runs it, such as 60MB.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="At most so many samples of the held-out part.")] = 1000,
    seed: Annotated[int, typer.Option(help="The seed that the model was trained with: it splits the data.")] = 0,
    input_range: Annotated[
        str, typer.Option(help="What the model takes for black..white of images, and of random numbers.")
    ] = "0..1",
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Load pickled models: they can run code.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare a model with another one sample by sample; ends with exit code 4 if it misses a bound or the device."""
    from edgeloop.toolchain.check import CheckRecipe, input_of_both
    from edgeloop.toolchain.check import check as compare
    from edgeloop.toolchain.data.dataset import prepare
    from edgeloop.toolchain.data.open import open_dataset
    from edgeloop.toolchain.package import Bounds
    from edgeloop.toolchain.profiles.open import open_profile
    from edgeloop.toolchain.source.open import open_model

    span = parse_range(input_range)
    recipe = CheckRecipe(
        samples=samples,
        profile=open_profile(profile),
        bounds=Bounds(
            max_drop_points=max_drop,
            max_size_bytes=None if max_size is None else parse_size_bytes(max_size),
            max_latency_p50_ms=None if max_latency is None else 1000 * parse_duration_s(max_latency),
            max_memory_bytes=None if max_memory is None else parse_size_bytes(max_memory),
        ),
        random_range=span,
    )
    with progress_bar("reading models and data") as progress:
        made, original = (open_model(one, trust_pickle=trust_pickle) for one in (candidate, against))
        prepared = None
        if data is not None:
            dataset = open_dataset(data, taken=input_of_both(made, original), seed=seed)
            prepared = prepare(dataset, made.only_input(), value_range=span)
        report = compare(made, original, prepared, recipe, progress=progress)
    if as_json:
        emit_json({**_plain(report), "passes": report.passes})
    else:
        _show(report)
    if not report.passes:
        raise Refused("; ".join((*report.missed, *_misfits(report))))


def _plain(report: "CheckReport") -> dict[str, object]:
    import msgspec

    plain: dict[str, object] = msgspec.to_builtins(report)
    if report.classified is not None:
        classified = msgspec.to_builtins(report.classified)
        plain["classified"] = {**classified, "drop_points": report.classified.drop_points}
    return plain


def _misfits(report: "CheckReport") -> list[str]:
    device = report.device
    return [f"{report.candidate.name} does not fit {device.title}: {one}" for one in device.misfits] if device else []


def _show(report: "CheckReport") -> None:
    both = (report.candidate, report.against)
    found = report.classified
    rows = (
        ("format", *(one.precision or one.format for one in both)),
        ("size", *(size(one.size_bytes) for one in both)),
        ("accuracy", percent(found.accuracy if found else None), percent(found.accuracy_against if found else None)),
        ("multiply-adds", *("-" if one.multiply_adds is None else f"{one.multiply_adds:,}" for one in both)),
        ("latency p50", *(_milliseconds(one.latency_p50_ms) for one in both)),
        ("latency p99", *(_milliseconds(one.latency_p99_ms) for one in both)),
        ("peak memory", *("-" if one.peak_memory_bytes is None else size(one.peak_memory_bytes) for one in both)),
    )
    measured = f"; measured on {report.measured_on}, one thread, by turns" if report.measured_on else ""
    columns = ("", escape(report.candidate.name), escape(report.against.name))
    show_table("models", columns, rows, note=f"{report.inputs}{measured}")
    show_table(
        "differences",
        ("output", "largest", "mean", "largest value"),
        [
            (escape(one.candidate), f"{one.max_abs_error:.3g}", f"{one.mean_abs_error:.3g}", f"{one.largest:.3g}")
            for one in report.errors
        ],
    )
    if found is not None:
        _show_classes(found)
    if report.device is not None:
        _show_device(report.device)
    for note in report.notes:
        console.print(f"note: {note}", style="dim", markup=False, highlight=False)


def _show_classes(found: "Classified") -> None:
    if not found.labelled:
        console.print(
            f"they agree on {percent(found.agreement)}; no sample has a label to tell accuracy by", highlight=False
        )
        return
    drop = "-" if found.drop_points is None else f"{found.drop_points:+.2f}"
    console.print(
        f"they agree on {percent(found.agreement)}; accuracy lost: {drop} points on {found.labelled} labelled samples",
        highlight=False,
    )
    worse = found.worse
    if worse:
        rows = [
            (escape(one.label), str(one.samples), percent(one.accuracy), percent(one.accuracy_against))
            for one in worse[:_SHOWN_LABELS]
        ]
        note = f"{len(worse) - _SHOWN_LABELS} more are in --json" if len(worse) > _SHOWN_LABELS else ""
        show_table("labels that got worse", ("label", "samples", "right now", "right before"), rows, note=note)


def _show_device(device: "OnDevice") -> None:
    fit = "fits" if not device.misfits else f"does not fit: {'; '.join(device.misfits)}"
    console.print(f"{device.title}: {fit}", highlight=False, markup=False)
    if device.arena_bytes is not None:
        console.print(f"arena there: at most {size(device.arena_bytes)}", highlight=False)
    console.print(f"latency there: {latency_text(device.latency)}", highlight=False, markup=False)


def latency_text(latency: "Estimate") -> str:
    """A latency with its bounds and how it came about, for people."""
    if latency.latency_ms is None or latency.low_ms is None or latency.high_ms is None:
        return latency.method if latency.latency_ms is None else f"{latency.latency_ms:.3f} ms ({latency.method})"
    between = f"between {_rounded(latency.low_ms)} and {_rounded(latency.high_ms)}"
    return f"about {_rounded(latency.latency_ms)} ms, {between} ({latency.method})"


def _rounded(value: float) -> str:
    """To two figures, never as a power of ten: an estimate has no more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} ms"
