"""A build folder: one float model's variants so far, and all that a manifest will say of them.

    build/build.json     the draft manifest
    build/files/SHA256   variants, golden samples, drift reference, by content

`convert` adds a variant at a time; `package` makes a bundle of it. A variant of another model is refused.
"""

from pathlib import Path

import msgspec

from edgeloop.bundle.archive import Bundle, digest, entries
from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.codec import SCHEMA, from_json, to_json, to_pretty_json
from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.manifest import DriftReference, FileEntry, Golden, InputSpec, Lineage, Manifest, Variant
from edgeloop.contracts.output import Classification
from edgeloop.contracts.preprocess import Step

DRAFT_NAME, DRAFT_VERSION = "draft", "0.0.0"


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """The draft. source_sha256: the float model that all variants come from; accuracy_float: its own, on holdout."""

    source_sha256: str
    accuracy_float: float
    size_float_bytes: int
    labels: tuple[str, ...]
    input: InputSpec
    preprocess: tuple[Step, ...]
    output: Classification
    golden: Golden
    reference: DriftReference | None
    lineage: Lineage
    variants: tuple[Variant, ...] = ()
    schema: int = SCHEMA


class BuildFolder:
    """Reads and writes a build folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read_draft(self) -> Build:
        """The draft. Raises NotFound if nothing was converted into this folder yet."""
        path = self._folder / "build.json"
        if not path.is_file():
            raise NotFound(
                f"there is no build in {self._folder}; make one with 'edgeloop convert MODEL --out {self._folder}'"
            )
        return from_json(path.read_bytes(), Build, what=str(path))

    def begin(self, build: Build) -> Build:
        """Start a draft, or go on with the one that is there if it is of the same model."""
        try:
            before = self.read_draft()
        except NotFound:
            self.write_draft(build)
            return build
        self.require_same(build.source_sha256)
        if before.golden != build.golden:
            raise InvalidInput(
                f"{self._folder} was made of this model with other data or another seed; choose another --out"
            )
        return before

    def require_same(self, source_sha256: str) -> None:
        """Raise InvalidInput if the folder holds another model's variants."""
        try:
            before = self.read_draft()
        except NotFound:
            return
        if before.source_sha256 != source_sha256:
            raise InvalidInput(
                f"{self._folder} holds variants of another model ({before.source_sha256[:12]}, this one is "
                f"{source_sha256[:12]}); choose another --out"
            )

    def add(self, build: Build, variant: Variant) -> Build:
        """Add a variant; one of the same engine and precision is replaced."""
        kept = tuple(v for v in build.variants if (v.engine, v.precision) != (variant.engine, variant.precision))
        grown = msgspec.structs.replace(build, variants=(*kept, variant))
        self.write_draft(grown)
        return grown

    def write_draft(self, build: Build) -> None:
        """Write build.json."""
        write_durable(self._folder / "build.json", to_pretty_json(build))

    def put(self, data: bytes) -> str:
        """Keep a file; returns its hash."""
        sha256 = digest(data)
        write_durable(self._folder / "files" / sha256, data)
        return sha256

    def read(self, sha256: str) -> bytes:
        """A file by hash. Raises NotFound."""
        path = self._folder / "files" / sha256
        if not path.is_file():
            raise NotFound(f"{path} is missing; convert again into a new folder")
        return path.read_bytes()

    def draft_bundle(self, build: Build, *variants: Variant) -> Bundle:
        """The build as a bundle in memory, with just these variants: what checks run on."""
        manifest = self.manifest(build, name=DRAFT_NAME, version=DRAFT_VERSION, variants=variants)
        return Bundle(manifest, self, manifest_bytes=to_json(manifest))

    def manifest(self, build: Build, *, name: str, version: str, variants: tuple[Variant, ...]) -> Manifest:
        """The build as a manifest."""
        return Manifest(
            name=name,
            version=version,
            labels=build.labels,
            input=build.input,
            preprocess=build.preprocess,
            output=build.output,
            variants=variants,
            golden=build.golden,
            files=self._files(build, variants),
            lineage=build.lineage,
            reference=build.reference,
        )

    def _files(self, build: Build, variants: tuple[Variant, ...]) -> tuple[FileEntry, ...]:
        needed = {variant.file for variant in variants} | {build.golden.inputs, build.golden.outputs}
        if build.reference is not None:
            needed |= {build.reference.class_means, build.reference.feature_std}
        return entries(self.read(sha256) for sha256 in needed)
