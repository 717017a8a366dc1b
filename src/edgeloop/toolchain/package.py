"""A build to a bundle, if it keeps its bounds; else a report that says by how much it misses."""

from pathlib import Path

import msgspec

from edgeloop.bundle.archive import SUFFIX, open_bundle, write_bundle
from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.manifest import Budget, Manifest
from edgeloop.contracts.names import BundleRef
from edgeloop.toolchain.build import Build, BuildFolder


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What every variant must keep to, and devices too. max_drop_points: of accuracy, against the float model."""

    max_drop_points: float | None = None
    max_size_bytes: int | None = None
    max_latency_p50_ms: float | None = None
    max_memory_bytes: int | None = None


def pack(folder: Path, *, name: str, version: str, out: Path, bounds: Bounds | None = None) -> Manifest:
    """Write NAME-VERSION.edgeloop. Raises InvalidInput or NotFound on a bad build, Refused if a bound is missed."""
    ref = BundleRef.parse(f"{name}@{version}")
    if out.suffix != SUFFIX:
        raise InvalidInput(f"--out {out} must end in {SUFFIX}")
    build_folder = BuildFolder(folder)
    build = build_folder.read_draft()
    if not build.variants:
        raise InvalidInput(f"{folder} has no variants yet; add one with 'edgeloop convert'")
    wanted = bounds or Bounds()
    misses = _misses(build, wanted)
    if misses:
        raise Refused(f"{ref} is not written: {'; '.join(misses)}")
    manifest = build_folder.manifest(build, name=name, version=version, variants=build.variants)
    budget = Budget(max_latency_p50_ms=wanted.max_latency_p50_ms, max_peak_memory_bytes=wanted.max_memory_bytes)
    manifest = msgspec.structs.replace(manifest, budget=budget)
    write_bundle(out, manifest, {entry.sha256: build_folder.read(entry.sha256) for entry in manifest.files})
    open_bundle(out).verify()
    return manifest


def _misses(build: Build, bounds: Bounds) -> list[str]:
    misses = []
    for variant in build.variants:
        what = f"{variant.engine} {variant.precision}"
        measured = variant.measured
        if measured is None:
            misses.append(f"{what} was never measured")
            continue
        drop_points = 100 * (build.accuracy_float - measured.share_right)
        if bounds.max_drop_points is not None and drop_points > bounds.max_drop_points:
            misses.append(f"{what} loses {drop_points:.2f} points, allowed {bounds.max_drop_points:.2f}")
        if bounds.max_size_bytes is not None and variant.size_bytes > bounds.max_size_bytes:
            misses.append(f"{what} has {variant.size_bytes:,} bytes, allowed {bounds.max_size_bytes:,}")
        slowest_ms = bounds.max_latency_p50_ms
        if slowest_ms is not None and measured.latency_p50_ms > slowest_ms:
            misses.append(f"{what} takes {measured.latency_p50_ms:.2f} ms here, allowed {slowest_ms:.2f}")
        most = bounds.max_memory_bytes
        if most is not None and measured.peak_memory_bytes > most:
            misses.append(f"{what} peaks at {measured.peak_memory_bytes:,} bytes, allowed {most:,}")
    return misses
