"""Answers on this machine: predict, watch, bench, enrol."""

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.markup import escape

from edgeloop.cli.progress import progress_bar
from edgeloop.cli.say import emit_json, printable
from edgeloop.cli.show import AsJson, console, percent, show_table, size
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Unavailable
from edgeloop.contracts.output import Task

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edgeloop.cli.watch import LeftOut
    from edgeloop.contracts.prediction import Prediction
    from edgeloop.runtime.bench import Bench, Contender
    from edgeloop.runtime.engines.settings import Found
    from edgeloop.runtime.predictor import Predictor
    from edgeloop.runtime.sources.port import Frame
    from edgeloop.runtime.streaming import StreamCounts

BundlePath = Annotated[Path, typer.Argument(help="A bundle file.")]
SourceName = Annotated[
    str,
    typer.Argument(
        help="An image, sound, CSV or video file, a folder of them, a camera, an rtsp:// or http:// URL, or - for "
        "standard input."
    ),
]
Engine = Annotated[str | None, typer.Option(help="litert, onnxruntime or openvino, to insist on one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of the engine; measured unless told.")]
RaceS = Annotated[float, typer.Option(min=0, help="Seconds to find out what is fastest here, once; 0 for none.")]
Cache = Annotated[bool, typer.Option("--cache/--no-cache", help="Let an answer stand while the scene does not change.")]
Enrolled = Annotated[Path | None, typer.Option(help="Examples for an embedding, as 'enrol' wrote them.")]


def predict(
    bundle: BundlePath,
    source: SourceName,
    engine: Engine = None,
    threads: Threads = None,
    race_s: RaceS = 2.0,
    cache: Cache = False,
    enrolled: Enrolled = None,
    draw: Annotated[
        Path | None, typer.Option("--draw", help="A folder for pictures with the answers drawn in.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Predict for images, videos, sounds or tables: as a table, as JSON lines, or as pictures."""
    from edgeloop.runtime.load import load
    from edgeloop.runtime.streaming import Stream

    predictor = load(bundle, engine=engine, threads=threads, race_s=race_s, enrolled=enrolled)
    if draw is not None:
        _require_drawable(predictor)
        _make_folder(draw)
    variant = predictor.variant
    table = _Rows(f"{predictor.manifest.ref} on {variant.engine} {variant.precision}, {predictor.setting}")
    failed = 0
    try:
        # Files of a folder need not have to do with one another: nothing is smoothed over them.
        for frame, made in Stream(predictor, source, cache=cache, smooth=False).answers():
            if isinstance(made, EdgeloopError):
                failed += 1
                typer.echo(_told(frame, made), err=True)
                continue
            if as_json:
                emit_json({"source": made.source, "prediction": made})
            else:
                table.add(_row(made))
            if draw is not None and frame is not None:
                _draw(frame, made, predictor, draw)
    finally:
        table.show()
    if failed:
        raise Corrupt(f"{failed} of the inputs could not be used; the lines above name them")


def watch(
    bundle: BundlePath,
    source: SourceName,
    engine: Engine = None,
    threads: Threads = None,
    race_s: RaceS = 2.0,
    cache: Cache = True,
    enrolled: Enrolled = None,
    rate_hz: Annotated[float, typer.Option(min=0, help="At most so many inputs a second; 0 for all.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Watch a stream live: frames a second, latency, the last labels, what was skipped and cached. Ctrl-C ends it.

    A folder is followed: what is added to it is answered, too.
    """
    from edgeloop.cli.watch import WatchView
    from edgeloop.runtime.load import load
    from edgeloop.runtime.streaming import Stream

    predictor = load(bundle, engine=engine, threads=threads, race_s=race_s, enrolled=enrolled)
    stream = Stream(predictor, source, follow=Path(source).is_dir(), rate_hz=rate_hz, cache=cache)
    if as_json:
        for answered in stream.predictions():
            emit_json(answered)
        return
    view = WatchView(f"{predictor.manifest.ref}  {predictor.variant.engine} {predictor.variant.precision}")
    lock = threading.Lock()

    def render() -> "RenderableType":
        with lock:
            view.tell(_left_out(stream.counts))
            return view.render()

    # Drawn by a thread of Rich's own, so that the rate falls to nothing when nothing comes.
    with Live(get_renderable=render, console=console, refresh_per_second=_REFRESH_HZ):
        for frame, made in stream.answers():
            with lock:
                if isinstance(made, EdgeloopError):
                    view.fail(_told(frame, made))
                else:
                    view.add(made)


def bench(
    bundle: BundlePath,
    engine: Engine = None,
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(min=0, help="For taking turns; memory is measured beside.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Measure every variant on every engine and number of threads here, keep the winner, and say why it won."""
    from edgeloop.bundle.archive import open_bundle
    from edgeloop.runtime.bench import bench as measure
    from edgeloop.runtime.known import look_for_accelerators
    from edgeloop.runtime.load import able_here, remember_race

    opened = open_bundle(bundle)
    able = able_here(opened, engine)
    with progress_bar("loading") as progress:
        progress(0.0, "looking for accelerators")
        beside = look_for_accelerators()
        found = measure(bundle, opened, able, threads=threads, found=beside, seconds=seconds, progress=progress)
    race = found.as_race()
    if race is not None:
        remember_race(opened, able, race, threads=threads)
    if as_json:
        emit_json(found)
    else:
        _show_bench(found, beside)
    if race is None:
        raise Unavailable(f"nothing of {found.bundle} may be used here; each contender's failure says why")


def enrol(
    bundle: BundlePath,
    label: Annotated[str, typer.Argument(help="Whose examples these are.")],
    sources: Annotated[list[Path], typer.Argument(help="Examples: images, sounds or CSV files.")],
    to: Annotated[Path, typer.Option("--to", help="The file of examples; it is added to if it is there.")],
    as_json: AsJson = False,
) -> None:
    """Remember examples of a label for an embedding, such as a person's face; 'predict --enrolled' knows them."""
    from edgeloop.runtime.load import load

    predictor = load(bundle, enrolled=to if to.exists() else None)
    predictor.enrol(label, *sources)
    predictor.save_enrolled(to)
    if as_json:
        emit_json({"enrolled": str(to), "label": label, "examples": len(sources)})
        return
    console.print(f"{to}: {len(sources)} examples of {label} added", highlight=False, markup=False)


_REFRESH_HZ = 8
_ROWS_AT_ONCE, _ROWS_EVERY_S = 200, 2.0
_BENCH_COLUMNS = ("variant", "setting", "p50", "p99", "throughput", "peak memory", "agreement", "size", "")


class _Rows:
    """A table that is printed in parts, so that a source without an end shows something and is not kept for good."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._rows: list[tuple[str, ...]] = []
        self._since_s = time.monotonic()

    def add(self, row: tuple[str, ...]) -> None:
        """One more row; those so far are printed if they are many, or the first has waited."""
        self._rows.append(row)
        if len(self._rows) >= _ROWS_AT_ONCE or time.monotonic() - self._since_s > _ROWS_EVERY_S:
            self.show()

    def show(self) -> None:
        """Print what was not printed yet."""
        if self._rows:
            show_table(self._title, ("source", "label", "score", "more", "latency"), self._rows)
        self._rows, self._since_s = [], time.monotonic()


def _left_out(counts: "StreamCounts") -> "LeftOut":

    from edgeloop.cli.watch import LeftOut

    told = counts.source
    return LeftOut(
        skipped=told.skipped,
        dropped=told.dropped,
        errors=counts.failed,
        stalled=told.stalled,
        reopened=told.reopened,
    )


def _show_bench(found: "Bench", beside: "tuple[Found, ...]") -> None:
    rows = [_bench_row(one) for one in found.contenders]
    show_table(f"{found.bundle}, {found.rounds} rounds", _BENCH_COLUMNS, rows)
    for one in beside:
        if one.problem:
            told = f"passed over: {one.engine} {one.accelerator}: {one.problem}"
            console.print(told, style="dim", highlight=False, markup=False)
    console.print(found.why, highlight=False, markup=False)


def _bench_row(one: "Contender") -> tuple[str, ...]:
    def ms(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f} ms"

    return (
        f"{one.engine} {one.precision}",
        str(one.setting),
        ms(one.latency_p50_ms),
        ms(one.latency_p99_ms),
        "-" if one.throughput_per_s is None else f"{one.throughput_per_s:,.0f}/s",
        "-" if one.peak_memory_bytes is None else size(one.peak_memory_bytes),
        percent(one.agreement),
        size(one.size_bytes),
        escape(one.failure or ""),
    )


def _told(frame: "Frame | None", error: EdgeloopError) -> str:
    return f"{error.code}: {frame.name + ': ' if frame else ''}{error}"


def _row(made: "Prediction") -> tuple[str, ...]:
    more = made.top[1:] if made.task is Task.CLASSIFICATION and made.label is not None else made.top
    if made.task is Task.DETECTION:
        told = f"{len(made.boxes)} box{'es' if len(made.boxes) != 1 else ''}"
    elif made.task in (Task.CLASSIFICATION, Task.SEGMENTATION):
        told = " ".join(f"{one.label} {percent(one.score)}" for one in more[:2])
    else:
        told = " ".join(f"{one.label} {one.score:.4g}" for one in more[:3])
    is_share = made.task in (Task.CLASSIFICATION, Task.DETECTION, Task.SEGMENTATION)
    score = percent(made.score) if is_share else f"{made.score:.4g}"
    cached = " cached" if made.cached else ""
    return (
        escape(printable(made.source)),
        escape(printable(made.label or "none")),
        score,
        escape(printable(told)),
        f"{made.latency_ms:.3f} ms{cached}",
    )


def _require_drawable(predictor: "Predictor") -> None:
    if predictor.manifest.input.modality != "image":
        raise InvalidInput(f"{predictor.manifest.ref} takes {predictor.manifest.input.modality}; --draw is for images")


def _make_folder(folder: Path) -> None:
    from edgeloop.bundle.durable import make_folder, translated

    with translated(folder, doing="write"):
        make_folder(folder)


def _draw(frame: "Frame", made: "Prediction", predictor: "Predictor", folder: Path) -> None:
    from edgeloop.bundle.durable import write_durable
    from edgeloop.runtime.draw import draw
    from edgeloop.runtime.input.images import as_image, encode_png

    picture = draw(as_image(frame.data), made, predictor.manifest.labels)
    name = made.source.replace("/", "_")  # whole: a video's frames differ in their number alone
    write_durable(folder / (name if name.endswith(".png") else f"{name}.png"), encode_png(picture, quick=True))
