"""Ours, as a person would run it: the command line in a process of its own, read back from what it writes."""

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.contender import Contender
from edgeloop.bundle.archive import open_bundle
from edgeloop.toolchain.compress.front import Candidate
from edgeloop.toolchain.compress.report import CompressReport
from edgeloop.toolchain.source.engine import ENGINES

_FORMS = {engine: form for form, engine in ENGINES.items()}


@dataclass(frozen=True)
class Search:
    """What `edgeloop compress` came to. took_min: from start to end of the command."""

    report: CompressReport
    took_min: float
    folder: Path


def compress(model: Path, data: Path, out: Path, *, max_drop: float, max_size_bytes: int, budget_min: float) -> Search:
    """Search anew in `out`, which is emptied first. Raises RuntimeError if the command fails."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "edgeloop", "compress", str(model), "--data", str(data), "--out", str(out)]
    command += ["--max-drop", f"{max_drop:g}", "--max-size", f"{max_size_bytes}B", "--budget", f"{budget_min:g}min"]
    started = time.monotonic()
    done = subprocess.run([*command, "--json"], stdout=subprocess.PIPE, check=False)  # noqa: S603 - our own command
    took_min = (time.monotonic() - started) / 60
    if done.returncode != 0:
        raise RuntimeError(f"edgeloop compress ended with {done.returncode}; its message stands above")
    return Search(msgspec.json.decode(done.stdout, type=CompressReport), took_min, out)


def chosen(search: Search, *, latency_share: float | None = None) -> Candidate | None:
    """The candidate to be judged, by the search's own figures alone: none where no bundle was written.

    Of the bundles: those within `latency_share` of the source's latency where any is; of those the one that loses
    the fewest points, then the smallest.
    """
    bundled = [one for one in search.report.candidates if one.bundle]
    before_ms = search.report.baseline.latency_p50_ms
    if latency_share is not None and before_ms is not None:
        quick = [one for one in bundled if one.measured.latency_p50_ms <= latency_share * before_ms]
        bundled = quick or bundled
    return min(bundled, key=lambda one: (one.lost_points, one.size_bytes), default=None)


def opened(search: Search, candidate: Candidate) -> Contender:
    """The candidate's model out of its bundle."""
    path = Path(candidate.bundle)
    bundle = open_bundle(path if path.is_file() else search.folder / path)
    (variant,) = bundle.manifest.variants
    return Contender("edgeloop", _FORMS[variant.engine], bundle.read(variant.file))
