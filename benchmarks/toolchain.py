"""Print the figures table of the toolchain and write it to build/bench-toolchain.json, row by row.

    python -m benchmarks.toolchain [--only NAME]... [--assets FOLDER] [--budget MINUTES] [--install-peers]

Run it on an otherwise idle machine: latencies are medians of interleaved runs, but a loaded machine still blurs them,
and a search finds less in its minutes. A work whose data is absent is a row with the reason; one that fails is a row
that says so, and the others go on. Exit code 0 when every work that could be run was, whether figures are met or not;
1 when one failed; 130 when it was ended by Ctrl-C, with the rows so far in the file.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.context import Context, Work
from benchmarks.data import ASSETS_VARIABLE, Absent, assets_folder
from benchmarks.peers import venv
from benchmarks.rows import Ledger, Row, failed, not_run
from benchmarks.table import notes, table
from benchmarks.works import fashion, kws, mnist, prune, resnet8, svm

WORKS = (mnist.WORK, fashion.WORK, kws.WORK, resnet8.WORK, prune.WORK, svm.WORK)
"""In the order of the table."""

_BUILD = Path("build")
_LEDGER = _BUILD / "bench-toolchain.json"
_WIDTH = 120


def run(works: Sequence[Work], context: Context, ledger: Ledger) -> bool:
    """Each work's rows into the ledger as they come. Whether none failed."""
    sound = True
    for work in works:
        context.tell(f"{work.name}: {work.title}")
        ledger.begin(work.name)
        try:
            for row in work.rows(context):
                ledger.add(row)
        except Absent as error:
            ledger.add(not_run(work.name, "run", "", f"skipped: {error}"))
        except Exception as error:  # noqa: BLE001 - the outer guard: a work that fails is a row, the others go on
            sound = False
            context.tell(f"{work.name}: failed: {error}")
            ledger.add(failed(work.name, error))
    return sound


def in_order(rows: Sequence[Row], works: Sequence[Work]) -> list[Row]:
    """Rows by the order of works, each work's as they came; those of works that there are no more stay out."""
    return [row for work in works for row in rows if row.work == work.name]


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    asked = _parsed(arguments)
    console, told = _console(), Console(stderr=True, soft_wrap=True)
    if asked.install_peers:
        for peer in venv.REQUIREMENTS:
            told.print(f"installing {venv.TITLES[peer]} under {venv.FOLDER}")
            venv.install(peer)
    context = Context(
        assets=assets_folder(asked.assets),
        cache=_BUILD / "bench-cache",
        scratch=_BUILD / "bench",
        budget_min=asked.budget,
        tell=_teller(told),
    )
    ledger = Ledger(_LEDGER)
    chosen = [work for work in WORKS if not asked.only or work.name in asked.only]
    sound = run(chosen, context, ledger)
    rows = in_order(ledger.rows, WORKS)
    console.print(table(rows))
    for note in notes(rows):
        console.print(note, highlight=False, markup=False)
    told.print(f"rows: {_LEDGER}", highlight=False)
    return 0 if sound else 1


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    names = [work.name for work in WORKS]
    parser = argparse.ArgumentParser(
        prog="benchmarks.toolchain", description="The toolchain's figures, beside those of its peers."
    )
    parser.add_argument("--only", action="append", choices=names, help="one work; may be given several times")
    parser.add_argument("--assets", type=Path, help=f"the folder of public models and data; else ${ASSETS_VARIABLE}")
    parser.add_argument("--budget", type=float, default=10.0, help="minutes of each search (default: 10)")
    parser.add_argument(
        "--install-peers", action="store_true", help=f"make environments for Olive and others under {venv.FOLDER}"
    )
    return parser.parse_args(arguments)


def _console() -> Console:
    """For the table: a file or a pipe has no width, and must not cut it to 80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def _teller(console: Console) -> Callable[[str], None]:
    """Lines with the time since the start."""
    started = time.monotonic()

    def tell(line: str) -> None:
        console.print(f"{time.monotonic() - started:7.0f} s  {line}", highlight=False, markup=False)

    return tell


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
