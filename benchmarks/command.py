"""What the benchmark commands share: works run one after another, rows kept as they come, the table at the end.

Exit code 0 when every work that could be run was, whether figures are met or not; 1 when one failed; 130 when it was
ended by Ctrl-C, with the rows so far in the file.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.context import Context, Work
from benchmarks.data import ASSETS_VARIABLE, Absent, assets_folder
from benchmarks.peers import venv
from benchmarks.rows import Ledger, Row, failed, not_run
from benchmarks.table import notes, table

BUILD = Path("build")

Peers = Mapping[str, Callable[[], None]]
"""How to install each peer that needs an environment of its own, by its title."""

_WIDTH = 120


def begin(name: str, what: str, works: Sequence[Work]) -> argparse.ArgumentParser:
    """A parser of what all benchmark commands take."""
    parser = argparse.ArgumentParser(prog=f"benchmarks.{name}", description=what)
    parser.add_argument(
        "--only", action="append", choices=[work.name for work in works], help="one work; may be given several times"
    )
    parser.add_argument("--assets", type=Path, help=f"the folder of public models and data; else ${ASSETS_VARIABLE}")
    parser.add_argument(
        "--install-peers", action="store_true", help=f"first make environments for the peers under {venv.FOLDER}"
    )
    return parser


def finish(
    name: str, works: Sequence[Work], asked: argparse.Namespace, *, peers: Peers, budget_min: float = 0.0
) -> int:
    """Run the works that were asked for, print the table; the exit code."""
    console, told = _console(), Console(stderr=True, soft_wrap=True)
    if asked.install_peers:
        for title, install in peers.items():
            told.print(f"installing {title} under {venv.FOLDER}")
            install()
    context = Context(
        assets=assets_folder(asked.assets),
        cache=BUILD / "bench-cache",
        scratch=BUILD / "bench",
        budget_min=budget_min,
        tell=_teller(told),
    )
    ledger = Ledger(BUILD / f"bench-{name}.json")
    sound = run([work for work in works if not asked.only or work.name in asked.only], context, ledger)
    rows = in_order(ledger.rows, works)
    console.print(table(rows, title=f"{name} figures"))
    for note in notes(rows):
        console.print(note, highlight=False, markup=False)
    told.print(f"rows: {BUILD / f'bench-{name}.json'}", highlight=False)
    return 0 if sound else 1


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


def exit_with(main: Callable[[Sequence[str]], int]) -> None:
    """End the process with the command's exit code."""
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


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
