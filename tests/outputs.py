"""Manifests and bundles of any output, without a model: all that a head looks at."""

from typing import Any

from edgeloop.bundle.archive import Bundle, digest, entries
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.manifest import Golden, InputSpec, Lineage, Manifest, Modality
from edgeloop.contracts.output import Output

IMAGE = InputSpec("image", Modality.IMAGE, (1, 240, 320, 3), "nhwc", (-1.0, 1.0))
"""The input unless another is given: 320 pixels wide, 240 high."""


class HeldFiles:
    """The port bundle.archive.Files over a dict."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def read(self, sha256: str) -> bytes:
        """The file's bytes."""
        if sha256 not in self._files:
            raise NotFound(f"no file {sha256}")
        return self._files[sha256]


def manifest_of(output: Output, labels: tuple[str, ...] = ("a", "b"), **fields: Any) -> Manifest:
    """A manifest with this output; fields: others of Manifest."""
    stated: dict[str, Any] = {
        "name": "made",
        "version": "1.0.0",
        "input": IMAGE,
        "preprocess": (),
        "variants": (),
        "golden": Golden("a" * 64, "b" * 64, 16, {}),
        "files": (),
        "lineage": Lineage({}, {}, {}),
    }
    return Manifest(output=output, labels=labels, **(stated | fields))


def bundle_of(
    output: Output, labels: tuple[str, ...] = ("a", "b"), shipped: tuple[bytes, ...] = (), **fields: Any
) -> Bundle:
    """An open bundle that ships these files, under a manifest as above."""
    manifest = manifest_of(output, labels, files=entries(shipped), **fields)
    return Bundle(manifest, HeldFiles({digest(data): data for data in shipped}), manifest_bytes=to_json(manifest))
