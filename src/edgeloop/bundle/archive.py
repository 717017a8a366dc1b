"""A bundle on disk: NAME-VERSION.edgeloop, written deterministically and opened with suspicion.

The form is a ZIP of stored (uncompressed) members, fixed dates and sorted names: `manifest.json`, then one
`files/SHA256` a file that the manifest lists. Stored, because a compressor's bytes change with its version, and a
member that is its own size cannot be a bomb. Opening checks, before any content is read: the member list against
the manifest, sizes, duplicates, symlinks, names; content is hashed when it is read. Nothing is ever extracted.

Neighbours: `contracts.manifest` says what a manifest holds; `runtime` and `device` read a Bundle.
"""

import hashlib
import io
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import msgspec

from edgeloop.bundle.durable import is_of_storage, storage_error, translated, write_durable
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.manifest import FileEntry, Manifest, Variant
from edgeloop.contracts.output import Embedding, Task

SUFFIX = ".edgeloop"
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_BUNDLE_BYTES = 4 * 1024 * 1024 * 1024
MAX_VARIANTS = 64
"""Three engines at ten precisions, twice: whoever races a bundle tries each of them."""
_FOLDERS_OF_SHELVES = ("files", "patches")
"""See `shelf` and `device.patched`: a bundle named like one would lie in it, and older edgeloops lose it there."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


class Files(Protocol):
    """Where a bundle's files come from: an archive, or a device's folder that holds some of them."""

    def read(self, sha256: str) -> bytes:
        """The file's bytes, unverified. Raises NotFound if it is not here."""
        ...


class Bundle:
    """A manifest and its files, each verified against its hash when it is read."""

    def __init__(self, manifest: Manifest, files: Files, *, manifest_bytes: bytes) -> None:
        self.manifest = manifest
        self.manifest_bytes = manifest_bytes
        self._files = files
        self._sizes = {entry.sha256: entry.size_bytes for entry in manifest.files}

    def read(self, sha256: str) -> bytes:
        """The content of one file. Raises NotFound if it is not listed or not here, Corrupt if it is not itself."""
        if sha256 not in self._sizes:
            raise NotFound(f"{self.manifest.ref} lists no file {sha256}; see 'edgeloop inspect' for those it has")
        data = self._files.read(sha256)
        if len(data) != self._sizes[sha256] or hashlib.sha256(data).hexdigest() != sha256:
            raise Corrupt(
                f"file {sha256[:12]} of {self.manifest.ref} is damaged: its content does not match its hash. "
                "Fetch or build the bundle again."
            )
        return data

    def variant(self, sha256: str) -> Variant:
        """The variant whose file has this hash. Raises Corrupt if there is none."""
        for one in self.manifest.variants:
            if one.file == sha256:
                return one
        has = ", ".join(one.file[:12] for one in self.manifest.variants)
        raise Corrupt(f"{self.manifest.ref} has no variant {sha256[:12]}; it has {has}")

    def verify(self) -> None:
        """Read and check every file. Raises Corrupt or NotFound at the first that fails."""
        for sha256 in self._sizes:
            self.read(sha256)


def digest(data: bytes) -> str:
    """The name of a file in a bundle: SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


def entries(files: Iterable[bytes]) -> tuple[FileEntry, ...]:
    """The manifest's file list for these contents: sorted and without doubles."""
    unique = {digest(data): len(data) for data in files}
    return tuple(FileEntry(sha256, size) for sha256, size in sorted(unique.items()))


def parse_manifest(data: bytes, *, what: str = MANIFEST) -> Manifest:
    """Decode a manifest and check what types cannot say: its file list, shapes and references."""
    manifest = from_json(_with_task(data), Manifest, what=what)
    listed = [entry.sha256 for entry in manifest.files]
    if len(listed) != len(set(listed)):
        raise Corrupt(f"{what} lists a file twice; build the bundle again")
    missing = sorted(_referenced(manifest) - set(listed))
    if missing:
        raise Corrupt(f"{what} refers to a file that it does not list: {missing[0]}; build the bundle again")
    if manifest.input.shape[:1] != (1,):
        raise InvalidInput(f"{what} has an input of {manifest.input.shape}; its first axis must be a batch of 1")
    _check_variants(manifest, what)
    _check_labels(manifest, what)
    return manifest


def _check_variants(manifest: Manifest, what: str) -> None:
    variants = manifest.variants
    if not variants:
        raise InvalidInput(f"{what} has no variants; a bundle needs at least one")
    if len(variants) > MAX_VARIANTS:
        raise InvalidInput(f"{what} has {len(variants):,} variants; at most {MAX_VARIANTS} are taken: leave some out")
    doubles = _doubles(f"{one.engine} {one.precision} of file {one.file}" for one in variants)
    if doubles:
        raise InvalidInput(f"{what} lists the variant {doubles[0]} more than once; leave it in once")


def _with_task(data: bytes) -> bytes:
    """The same manifest, whose output says what it is for: those written before there was more than one task do not.

    Anything that is no such document is left as it is, for typed decoding to judge.
    """
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return data
    output = document.get("output") if isinstance(document, dict) else None
    if not isinstance(output, dict) or "task" in output:
        return data
    return to_json({**document, "output": {"task": Task.CLASSIFICATION.value, **output}})


_FEWEST_LABELS = {Task.CLASSIFICATION: 2, Task.SEGMENTATION: 2, Task.DETECTION: 1, Task.REGRESSION: 1, Task.ANOMALY: 2}
_MOST_LABELS = {Task.ANOMALY: 2, Task.EMBEDDING: 0}


def _check_labels(manifest: Manifest, what: str) -> None:
    labels, task = manifest.labels, manifest.task
    fewest, most = _FEWEST_LABELS.get(task, 0), _MOST_LABELS.get(task)
    if not (fewest <= len(labels) and (most is None or len(labels) <= most)):
        wanted = {0: "no labels: they come from examples", 1: "one or more labels", 2: "two or more distinct labels"}
        needs = "two labels, the normal one first" if task is Task.ANOMALY else wanted[fewest]
        raise InvalidInput(f"{what} is for {task}, which needs {needs}; got {_shown(labels)}")
    doubles = _doubles(labels)
    if doubles:
        raise InvalidInput(f"{what} needs distinct labels; {doubles[0]!r} stands in {_shown(labels)} more than once")


def _doubles(words: Iterable[str]) -> list[str]:
    """Those that come more than once, in the alphabet's order. What counts them may come from a stranger: no loop in a
    loop."""
    return sorted(word for word, count in Counter(words).items() if count > 1)


def _shown(labels: tuple[str, ...]) -> str:
    return f"{list(labels[:8])}{' and more' if len(labels) > 8 else ''}"


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write the archive: the same manifest and files give the same bytes, and nothing half-written is left.

    files: content by SHA-256, exactly those that the manifest lists. Raises InvalidInput if they differ, and what
    `require_free_name` does.
    """
    require_free_name(manifest.name)
    manifest_bytes = to_json(manifest)
    parse_manifest(manifest_bytes)
    listed = {entry.sha256: entry.size_bytes for entry in manifest.files}
    given = {sha256: len(data) for sha256, data in files.items()}
    if listed != given or any(digest(data) != sha256 for sha256, data in files.items()):
        raise InvalidInput(f"the files given for {manifest.ref} are not those that its manifest lists")
    write_durable(path, _zip({MANIFEST: manifest_bytes} | {f"files/{sha}": files[sha] for sha in sorted(files)}))


def require_free_name(name: str) -> None:
    """Raise InvalidInput if no bundle may be called so."""
    if name in _FOLDERS_OF_SHELVES:
        raise InvalidInput(
            f"a bundle cannot be named {name}: devices keep all bundles' {name} in a folder of that name; choose "
            f"another, such as {name}-model"
        )


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open and check an archive; contents are verified as they are read.

    Raises NotFound if there is no such file, Corrupt if it is not a sound bundle, InvalidInput if it is of a
    newer schema or may not be read, Unavailable if the disk failed.
    """
    source = Path(path)
    with translated(source, doing="read"):
        is_there = source.is_file()
    if not is_there:
        raise NotFound(f"no bundle at {source}; expected a file NAME-VERSION{SUFFIX}, as 'edgeloop pack' writes it")
    files = _ArchiveFiles(source)
    manifest_bytes = files.manifest_bytes()
    manifest = parse_manifest(manifest_bytes, what=f"{source.name}:{MANIFEST}")
    files.check_against(manifest)
    return Bundle(manifest, files, manifest_bytes=manifest_bytes)


class _ArchiveFiles:
    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self._members = {info.filename: info for info in self._checked(archive)}
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
            _require_sound_disk(error, path)
            raise Corrupt(f"{path.name} is not a bundle, or is truncated: {error}. Fetch or build it again.") from error

    def _checked(self, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        infos = archive.infolist()
        doubles = _doubles(info.filename for info in infos)
        if doubles:
            raise Corrupt(f"{self._path.name} has member {doubles[0]!r} twice; do not trust it, fetch it again")
        for info in infos:
            self._check_member(info)
        total = sum(info.file_size for info in infos)
        if total > min(MAX_BUNDLE_BYTES, self._path.stat().st_size):
            raise Corrupt(f"{self._path.name} claims {total:,} bytes of content, more than the file holds")
        return infos

    def _check_member(self, info: zipfile.ZipInfo) -> None:
        name = info.filename
        is_file_name = name.startswith("files/") and len(name) == 70 and set(name[6:]) <= set("0123456789abcdef")
        mode = info.external_attr >> 16
        if name != MANIFEST and not is_file_name:
            raise Corrupt(
                f"{self._path.name} has a member {name!r} that no bundle has; expected only {MANIFEST} and files/SHA256"
            )
        if mode and not stat.S_ISREG(mode):
            raise Corrupt(f"{self._path.name}: member {name!r} is a link or special file; bundles hold plain files")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 0x1:
            raise Corrupt(
                f"{self._path.name}: member {name!r} is compressed or encrypted; bundles are stored as they are"
            )

    def manifest_bytes(self) -> bytes:
        info = self._members.get(MANIFEST)
        if info is None:
            raise Corrupt(f"{self._path.name} has no {MANIFEST}; it is no bundle")
        if info.file_size > MAX_MANIFEST_BYTES:
            raise Corrupt(f"{self._path.name}: {MANIFEST} is {info.file_size:,} bytes; at most {MAX_MANIFEST_BYTES:,}")
        return self._read_member(MANIFEST)

    def check_against(self, manifest: Manifest) -> None:
        listed = {f"files/{entry.sha256}": entry.size_bytes for entry in manifest.files}
        present = {name: info.file_size for name, info in self._members.items() if name != MANIFEST}
        for name in sorted(present.keys() - listed.keys()):
            raise Corrupt(f"{self._path.name} holds {name}, which its manifest does not list; fetch it again")
        for name in sorted(listed.keys() - present.keys()):
            raise Corrupt(f"{self._path.name} lacks {name}, which its manifest lists; fetch it again")
        for name, size in listed.items():
            if present[name] != size:
                raise Corrupt(f"{self._path.name}: {name} is {present[name]:,} bytes, its manifest says {size:,}")

    def read(self, sha256: str) -> bytes:
        return self._read_member(f"files/{sha256}")

    def _read_member(self, name: str) -> bytes:
        try:
            with zipfile.ZipFile(self._path) as archive:
                return archive.read(self._members[name])
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, ValueError) as error:
            _require_sound_disk(error, self._path)
            raise Corrupt(f"{self._path.name}: {name} cannot be read: {error}. Fetch or build it again.") from error


def _require_sound_disk(error: Exception, path: Path) -> None:
    """Raise Unavailable or InvalidInput if reading failed for the disk's sake: that says nothing of the bytes."""
    if isinstance(error, OSError) and is_of_storage(error):
        raise storage_error(error, path, doing="read") from error


def _zip(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, date_time=_EPOCH)
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def _referenced(manifest: Manifest) -> set[str]:
    found = {variant.file for variant in manifest.variants}
    found |= {manifest.golden.inputs, manifest.golden.outputs}
    if manifest.reference is not None:
        found |= {manifest.reference.class_means, manifest.reference.feature_std}
    if isinstance(manifest.output, Embedding) and manifest.output.enrolled is not None:
        found.add(manifest.output.enrolled.vectors)
    return found
