"""Prune a Keras model: whole channels out of it, or single weights to zero."""

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
from edgeloop.toolchain.prune.measures import By, Of, Scope

if TYPE_CHECKING:
    from edgeloop.toolchain.data.dataset import Prepared
    from edgeloop.toolchain.progress import Progress
    from edgeloop.toolchain.prune.structured import PruneRecipe, PruneReport
    from edgeloop.toolchain.prune.unstructured import SparsifyRecipe, SparsifyReport
    from edgeloop.toolchain.source.model import Model

_OF_CHANNELS = ("of", "by", "scope", "rounds", "least_channels", "multiple_of")


def prune(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A .keras or .h5 model.")],
    data: Annotated[str, typer.Option(help="What it is fitted to again: digits, a folder, a .csv, a .npz.")],
    keep: Annotated[str, typer.Option(help="The share that stays, such as 40% or 0.4.")] = "50%",
    of: Annotated[Of, typer.Option(help="What that is a share of.")] = Of.MACS,
    by: Annotated[By, typer.Option(help="What makes a channel matter.")] = By.L1,
    scope: Annotated[Scope, typer.Option(help="Channels compete in the network, or within their layer.")] = (
        Scope.NETWORK
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Cuts, each followed by fine-tuning.")] = 1,
    fine_tune: Annotated[int, typer.Option(min=0, help="Training samples shown after each cut.")] = 20_000,
    learning_rate: Annotated[float, typer.Option(help="Of fine-tuning.")] = 1e-3,
    distil: Annotated[bool, typer.Option("--distil", help="Fine-tune to the original's scores, too.")] = False,
    least_channels: Annotated[int, typer.Option(min=1, help="Channels that each layer keeps.")] = 2,
    multiple_of: Annotated[int, typer.Option(min=1, help="Channels by fours or eights suit hardware.")] = 1,
    unstructured: Annotated[
        bool, typer.Option("--unstructured", help="Zero single weights instead: gains in compression only.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The file; MODEL's name with .pruned unless told.")] = None,
    source: Annotated[
        str, typer.Option(help="Where digits come from: 'bundled', 'keras', or a folder of IDX files.")
    ] = "bundled",
    seed: Annotated[int, typer.Option(help="The seed that the model was trained with: it splits the data.")] = 0,
    input_range: Annotated[str, typer.Option(help="What the model takes for black..white of images.")] = "0..1",
    as_json: AsJson = False,
) -> None:
    """Take out what matters least, fine-tune, and say what it saved and cost."""
    if unstructured:
        refuse_ignored(context, _OF_CHANNELS, "is about whole channels, which --unstructured leaves")
    path, share, span = keras_file(out, model, "pruned"), parse_share(keep), parse_range(input_range)
    from edgeloop.toolchain.data.dataset import prepare
    from edgeloop.toolchain.data.open import open_dataset
    from edgeloop.toolchain.prune.structured import PruneRecipe
    from edgeloop.toolchain.prune.unstructured import SparsifyRecipe
    from edgeloop.toolchain.source.open import open_model
    from edgeloop.toolchain.source.save import save_model

    recipe: PruneRecipe | SparsifyRecipe
    if unstructured:
        recipe = SparsifyRecipe(
            sparsity=1 - share, images_seen=fine_tune, learning_rate=learning_rate, distil=distil, seed=seed
        )
    else:
        recipe = PruneRecipe(
            keep=share,
            of=of,
            by=by,
            scope=scope,
            rounds=rounds,
            images_seen=fine_tune,
            learning_rate=learning_rate,
            distil=distil,
            least_channels=least_channels,
            multiple_of=multiple_of,
            seed=seed,
        )
    with progress_bar("reading model and data") as progress:
        opened = open_model(model)
        taken = opened.only_input()
        prepared = prepare(open_dataset(data, source=source, taken=taken, seed=seed), taken, value_range=span)
        made, report = _run(opened, recipe, prepared, progress)
    save_model(made, path, report=report)
    if as_json:
        emit_json(report)
    else:
        _show(path, report)


def parse_share(text: str) -> float:
    """A share as people write it. Raises InvalidInput unless it lies between 0 and 1, both out.

    >>> parse_share("40%"), parse_share("0.4"), parse_share("12.5 %")
    (0.4, 0.4, 0.125)
    """
    number, sign, rest = text.strip().partition("%")
    try:
        share = float(number) / (100 if sign else 1)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is no share; write it as 40% or 0.4") from error
    if rest or not 0 < share < 1:
        raise InvalidInput(f"{text!r} is no share between 0 and 1; write it as 40% or 0.4")
    return share


def keras_file(out: Path | None, model: Path, what: str) -> Path:
    """Where a Keras model goes that was made of `model`. Raises InvalidInput if that is no .keras file, or `model`."""
    path = out or model.with_name(f"{model.stem}.{what}.keras")
    if path.suffix != ".keras":
        raise InvalidInput(f"--out {path} must end in .keras")
    if path.absolute() == model.absolute():
        raise InvalidInput(f"--out {path} is the model itself; name another file")
    return path


def _run(
    model: "Model", recipe: "PruneRecipe | SparsifyRecipe", data: "Prepared", progress: "Progress"
) -> tuple["Model", "PruneReport | SparsifyReport"]:
    from edgeloop.toolchain.prune.structured import PruneRecipe
    from edgeloop.toolchain.prune.structured import prune as cut_channels
    from edgeloop.toolchain.prune.unstructured import sparsify

    if isinstance(recipe, PruneRecipe):
        return cut_channels(model, recipe, data, progress=progress)
    return sparsify(model, recipe, data, progress=progress)


def _show(path: Path, report: "PruneReport | SparsifyReport") -> None:
    from edgeloop.toolchain.prune.structured import PruneReport

    if isinstance(report, PruneReport):
        _show_channels(path, report)
    else:
        _show_zeros(path, report)


def _show_channels(path: Path, report: "PruneReport") -> None:
    rows = [
        ("multiply-adds", f"{report.macs_before:,}", f"{report.macs_after:,}"),
        ("parameters", f"{report.parameters_before:,}", f"{report.parameters_after:,}"),
        ("file", size(report.size_bytes_before), size(report.size_bytes_after)),
        ("accuracy", percent(report.accuracy_before), percent(report.accuracy_after)),
    ]
    note = f"{percent(report.kept)} of {report.of} kept; right after the last cut: {percent(report.accuracy_cut)}"
    if report.missed_by > 0:
        note += f"\n{percent(report.keep)} was asked for: missed by {100 * report.missed_by:.1f} points"
    show_table(escape(str(path)), ("", "before", "after"), rows, note=note)
    shrunk = [(one.name, str(one.before), str(one.after)) for one in report.layers if one.after < one.before]
    show_table("channels", ("layer", "before", "after"), [(escape(name), *widths) for name, *widths in shrunk])
    for blocked in report.blocked:
        console.print(f"kept whole: {', '.join(blocked.layers)}: {blocked.reason}", markup=False, highlight=False)


def _show_zeros(path: Path, report: "SparsifyReport") -> None:
    rows = [
        ("zeros", percent(report.sparsity_before), percent(report.sparsity_after)),
        ("file", size(report.size_bytes_before), size(report.size_bytes_after)),
        ("file, zstd", size(report.zstd_bytes_before), size(report.zstd_bytes_after)),
        ("file, deflate", size(report.deflate_bytes_before), size(report.deflate_bytes_after)),
        ("accuracy", percent(report.accuracy_before), percent(report.accuracy_after)),
    ]
    note = "zeros gain in compression only: the file itself does not shrink, and latency does not change"
    show_table(escape(str(path)), ("", "before", "after"), rows, note=note)
