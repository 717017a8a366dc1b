"""Break things on purpose, print what came of it, and write it to build/torture.json.

    python -m torture [--only NAME]... [--minutes M] [--small] [--keep]

Everything happens on this machine: processes, loopback, disks in files and network namespaces of its own, none of
which is left behind. Exit code 0 when every work that could be run was, whether targets are met or not; 1 when one
failed; 130 when it was ended by Ctrl-C, with the rows so far in the file.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import msgspec
from rich.console import Console

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the bundles are those of the tests

from torture.rows import Row, keep, table
from torture.warm import Warm
from torture.works import WORKS, Scale, large, small

REPORT = Path("build") / "torture.json"
_WIDTH = 160


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="torture", description="Break things on purpose.")
    parser.add_argument("--only", action="append", choices=list(WORKS), help="one work; may be given several times")
    parser.add_argument("--minutes", type=float, default=45.0, help="begin nothing new after so many (45)")
    parser.add_argument("--small", action="store_true", help="the suite's numbers")
    parser.add_argument("--keep", action="store_true", help="leave the folders and logs, and say where")
    asked = parser.parse_args(arguments)
    scale = large(minutes=asked.minutes)
    if asked.small:
        scale = small(scale)
    told = Console(stderr=True, soft_wrap=True)
    signal.signal(signal.SIGTERM, _as_interrupt)
    folder = Path(tempfile.mkdtemp(prefix="edgeloop-torture-"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # what is remembered of races stays out of the person's own
    try:
        return _run([name for name in WORKS if not asked.only or name in asked.only], folder, scale, told)
    finally:
        if asked.keep:
            told.print(f"folders and logs: {folder}", highlight=False)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    """Mounted disks and namespaces are taken away on the way out."""
    raise KeyboardInterrupt


def _run(names: Sequence[str], folder: Path, scale: Scale, told: Console) -> int:
    console = Console()
    is_sound = True
    for name in names:
        told.print(f"{name} ...", highlight=False)
        started_s = time.monotonic()
        try:
            with Warm() as warm:
                rows = list(WORKS[name](warm, folder, scale))
        except Exception as error:  # noqa: BLE001 - the outer guard: a work that fails is a row, the others go on
            is_sound = False
            lines = str(error).strip().splitlines() or [""]
            rows = [Row(work=name, test=name, met=False, note=f"failed: {type(error).__name__}: {lines[0][:500]}")]
        took_s = time.monotonic() - started_s
        all_rows = keep(REPORT, name, [msgspec.structs.replace(row, seconds=round(took_s, 1)) for row in rows])
    ordered = [row for name in WORKS for row in all_rows if row.work == name]
    wide = console if console.is_terminal else Console(width=_WIDTH)
    wide.print(table(ordered))
    for row in ordered:
        if row.note:
            wide.print(f"{row.test}: {row.note}", highlight=False, markup=False, soft_wrap=True)
    told.print(f"rows: {REPORT}", highlight=False)
    return 0 if is_sound else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
