"""A bad version, made the way bad versions come about: the weights are damaged after the proof was made."""

from pathlib import Path

import msgspec

from edgeloop.bundle.archive import digest, entries, open_bundle, write_bundle


def write_damaged(good: Path, out: Path, *, version: str) -> None:
    """Pack `good` again under a new version with every variant's weights flipped; hashes and packing are honest."""
    bundle = open_bundle(good)
    manifest = bundle.manifest
    files = {entry.sha256: bundle.read(entry.sha256) for entry in manifest.files}
    variants = []
    for variant in manifest.variants:
        bad = _flip_middle(files.pop(variant.file))
        files[digest(bad)] = bad
        variants.append(msgspec.structs.replace(variant, file=digest(bad)))
    lineage = msgspec.structs.replace(manifest.lineage, parent=str(manifest.ref))
    damaged = msgspec.structs.replace(
        manifest, version=version, variants=tuple(variants), files=entries(files.values()), lineage=lineage
    )
    write_bundle(out, damaged, files)


def _flip_middle(model: bytes) -> bytes:
    """Flip the top bit of every byte in the middle half of the file, where the dense layer's weights lie."""
    start, stop = len(model) // 4, 3 * len(model) // 4
    return model[:start] + bytes(byte ^ 0x80 for byte in model[start:stop]) + model[stop:]
