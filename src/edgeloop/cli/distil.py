"""Distil a model of any format into a small Keras network."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from edgeloop.cli.progress import progress_bar
from edgeloop.cli.prune import keras_file
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import AsJson, percent, show_table, size
from edgeloop.cli.units import parse_range
from edgeloop.toolchain.nets.name import NetName

if TYPE_CHECKING:
    from edgeloop.toolchain.distil import DistilReport


def distil(
    teacher: Annotated[
        Path, typer.Argument(help="A model that answers: .keras, .h5, .onnx, .tflite, .pt2, .skops, a folder.")
    ],
    data: Annotated[str, typer.Option(help="What it is asked about: digits, a folder, a .csv, a .npz.")],
    student: Annotated[NetName, typer.Option(help="The network that learns.")] = NetName.SLIM,
    width: Annotated[float, typer.Option(help="Factor on the student's channels.")] = 1.0,
    depth: Annotated[int | None, typer.Option(help="Blocks of the student; its own default unless told.")] = None,
    temperature: Annotated[float, typer.Option(help="Above 1, small scores teach, too.")] = 4.0,
    teacher_weight: Annotated[float, typer.Option(help="Share of the teacher beside labels, where there are.")] = 0.9,
    images_seen: Annotated[int, typer.Option(min=1, help="Samples shown to the student.")] = 40_000,
    learning_rate: Annotated[float, typer.Option(help="Of the student.")] = 2e-3,
    hints: Annotated[int, typer.Option(min=0, help="Samples shown first, to match the teacher's features.")] = 0,
    most_asked: Annotated[int, typer.Option(min=1, help="Questions that the teacher is asked at most.")] = 40_000,
    augment: Annotated[bool, typer.Option("--augment/--as-they-are", help="Also ask about variations.")] = True,
    out: Annotated[Path | None, typer.Option("--out", help="The file; TEACHER's name, .student.keras.")] = None,
    source: Annotated[
        str, typer.Option(help="Where digits come from: 'bundled', 'keras', or a folder of IDX files.")
    ] = "bundled",
    seed: Annotated[int, typer.Option(help="Splits the data and makes the student repeatable.")] = 0,
    input_range: Annotated[str, typer.Option(help="What the teacher takes for black..white of images.")] = "0..1",
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Load a pickled estimator, which runs whatever code it holds.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Teach a small network what a model answers; labels help where there are any."""
    path, span = keras_file(out, teacher, "student"), parse_range(input_range)
    from edgeloop.toolchain.data.dataset import prepare
    from edgeloop.toolchain.data.open import open_dataset
    from edgeloop.toolchain.distil import DistilRecipe
    from edgeloop.toolchain.distil import distil as run
    from edgeloop.toolchain.source.open import open_model
    from edgeloop.toolchain.source.save import save_model
    from edgeloop.toolchain.teacher import student_input

    recipe = DistilRecipe(
        student=student,
        width=width,
        depth=depth,
        images_seen=images_seen,
        learning_rate=learning_rate,
        temperature=temperature,
        teacher_weight=teacher_weight,
        augment=augment,
        most_asked=most_asked,
        hints=hints,
        seed=seed,
    )
    with progress_bar("reading teacher and data") as progress:
        opened = open_model(teacher, trust_pickle=trust_pickle)
        dataset = open_dataset(data, source=source, taken=student_input(opened), seed=seed)
        prepared = prepare(dataset, student_input(opened, dataset), value_range=span)
        made, report = run(opened, recipe, prepared, progress=progress)
    save_model(made, path, report=report)
    if as_json:
        emit_json(report)
    else:
        _show(path, teacher, report)


def _show(path: Path, teacher: Path, report: "DistilReport") -> None:
    rows = [
        ("file", size(report.size_bytes_teacher), size(report.size_bytes_student)),
        ("accuracy", percent(report.accuracy_teacher), percent(report.accuracy_student)),
        ("agrees with the teacher", "-", percent(report.agreement)),
        ("parameters", "-", f"{report.parameters:,}"),
        ("multiply-adds", "-", f"{report.macs:,}"),
    ]
    note = f"the teacher gives {report.teacher_gives}; it was asked {report.asked:,} times, of {report.classes} classes"
    show_table(escape(str(path)), ("", escape(teacher.name), "student"), rows, note=note)
