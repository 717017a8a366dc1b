"""Build folders for tests, made without any toolchain from what `builders` makes."""

from pathlib import Path

import msgspec

from builders import Parts, make_parts
from edgeloop.contracts.manifest import Measured
from edgeloop.toolchain.build import Build, BuildFolder

SOURCE_SHA256 = "a" * 64


def build_of(parts: Parts, *, source_sha256: str = SOURCE_SHA256, accuracy_float: float = 1.0) -> Build:
    """The draft that would pack into these parts."""
    manifest = parts.manifest
    return Build(
        source_sha256=source_sha256,
        accuracy_float=accuracy_float,
        size_float_bytes=10_000,
        labels=manifest.labels,
        input=manifest.input,
        preprocess=manifest.preprocess,
        output=manifest.output,
        golden=manifest.golden,
        reference=manifest.reference,
        lineage=manifest.lineage,
        variants=manifest.variants,
    )


def make_build(folder: Path, *, accuracy_float: float = 1.0, measured: bool = True, **figures: float) -> BuildFolder:
    """Write a build of one ONNX variant. figures: of its Measured, to replace."""
    parts = make_parts()
    made = BuildFolder(folder)
    for data in parts.files.values():
        made.put(data)
    variant = parts.manifest.variants[0]
    assert variant.measured is not None
    found: Measured | None = msgspec.structs.replace(variant.measured, **figures) if measured else None
    changed = parts.changed(variants=(msgspec.structs.replace(variant, measured=found),))
    made.write_draft(build_of(changed, accuracy_float=accuracy_float))
    return made
