"""A description and the files it names to a bundle, proven as a device will prove it; or nothing, and why.

The reference answers the golden inputs through the runtime; each variant is replayed against those answers, and
measured in a clean process. Neighbours: `description` is what a person wrote, `golden` the inputs, `tolerance` how
far variants may lie from the reference; `toolchain.package` packs what the toolchain itself made.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.archive import SUFFIX, Bundle, digest, entries, open_bundle, parse_manifest, write_bundle
from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Refused
from edgeloop.contracts.manifest import (
    EngineName,
    FileEntry,
    Golden,
    Lineage,
    Manifest,
    Measured,
    Precision,
    Variant,
)
from edgeloop.contracts.output import Anomaly, Embedding, Enrolled, Output
from edgeloop.runtime.engines.find import load_engine
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.front import make_front
from edgeloop.runtime.input.port import Front
from edgeloop.runtime.output.head import make_head
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.profile import describe, this_machine
from edgeloop.runtime.replay import Replay, replay
from edgeloop.toolchain.check import footprint
from edgeloop.toolchain.described.description import (
    Description,
    ModelFile,
    VariantFile,
    engine_of,
    read_description,
    read_labels,
    require_file,
)
from edgeloop.toolchain.described.golden import GoldenInputs, gather_golden
from edgeloop.toolchain.described.tolerance import tolerances
from edgeloop.toolchain.draft import library_versions
from edgeloop.toolchain.progress import Progress, silent, within

_NO_FILE = digest(b"")
_RANGE_SLACK = 1e-3
_NORMAL_INPUTS = 1000


@dataclass
class _Files:
    """The bundle's files so far, by hash: the port `bundle.archive.Files` in memory."""

    contents: dict[str, bytes] = field(default_factory=dict)

    def put(self, data: bytes) -> str:
        sha256 = digest(data)
        self.contents[sha256] = data
        return sha256

    def read(self, sha256: str) -> bytes:
        if sha256 not in self.contents:
            raise NotFound(f"no file {sha256} was made yet")
        return self.contents[sha256]

    def bundle(self, manifest: Manifest) -> Bundle:
        """An open bundle of the files that there are, checked as a written one would be."""
        listed = msgspec.structs.replace(manifest, files=entries(self.contents.values()))
        encoded = to_json(listed)
        return Bundle(parse_manifest(encoded, what="the description"), self, manifest_bytes=encoded)


def pack_described(description: Path, *, out: Path, measure: bool = True, progress: Progress = silent) -> Manifest:
    """Write the bundle that a TOML file describes.

    description: see `description.Description`; names in it are relative to its folder. out: ends in .edgeloop. measure:
    time each variant and take its peak memory in a clean process; without, the manifest says nothing of them, and the
    same inputs give the same bytes. Raises InvalidInput, NotFound or Corrupt if the description or what it names
    cannot be used, Refused if a variant does not hold to the reference or to the budget; nothing is written then.
    """
    if out.suffix != SUFFIX:
        raise InvalidInput(f"--out {out} must end in {SUFFIX}")
    told, text = read_description(description)
    folder = description.parent
    progress(0.0, "reading the models")
    files = _Files({_NO_FILE: b""})
    draft = _draft(told, read_labels(told, folder), files)
    reference = told.reference or told.variants[0]
    judge = _variant(reference, Precision.FLOAT32, folder, draft, files)
    variants = [_variant(one, one.precision, folder, draft, files) for one in told.variants]
    sources = {one.file: digest(require_file(folder, one.file, "file").read_bytes()) for one in _models(told)}
    progress(0.1, "asking the reference")
    draft, golden = _with_answers(told, folder, draft, judge, files)
    lineage = _lineage(description, text, sources | golden.sources)
    manifest = msgspec.structs.replace(draft, lineage=lineage, variants=tuple(variants))
    proven = _proven(manifest, told.variants, files, measure=measure, progress=within(progress, 0.3, 1.0))
    finished = msgspec.structs.replace(manifest, variants=proven, files=_needed(manifest, files))
    write_bundle(out, finished, {entry.sha256: files.read(entry.sha256) for entry in finished.files})
    open_bundle(out).verify()
    return finished


def _models(told: Description) -> Iterable[ModelFile]:
    return (*([told.reference] if told.reference else []), *told.variants)


def _draft(told: Description, labels: tuple[str, ...], files: _Files) -> Manifest:
    """What the description alone says, with an empty file where there is none yet."""
    return Manifest(
        name=told.name,
        version=told.version,
        labels=labels,
        input=told.input,
        preprocess=told.preprocess,
        output=told.output,
        variants=(Variant(_NO_FILE, EngineName.LITERT, Precision.FLOAT32, 1, {}),),
        golden=Golden(_NO_FILE, _NO_FILE, 16, {}),
        files=entries(files.contents.values()),
        lineage=Lineage(recipe={}, data_sha256={}, libraries={}),
        budget=told.budget,
        reuse=told.reuse,
    )


def _variant(model: ModelFile, precision: Precision, folder: Path, draft: Manifest, files: _Files) -> Variant:
    """One model file, its tensors found. Raises InvalidInput if it is not what the description says."""
    data = require_file(folder, model.file, "file").read_bytes()
    wanted = make_head(files.bundle(draft)).wants
    name = engine_of(model)
    try:
        engine = load_engine(name, data)
    except (InvalidInput, Corrupt) as error:
        raise InvalidInput(f"{model.file} is no model that {name} runs: {error}") from error
    try:
        tensors = _tensors(model, draft.input.name, wanted, engine.inputs, engine.outputs)
    finally:
        engine.close()
    return Variant(files.put(data), name, precision, len(data), tensors)


def _tensors(
    model: ModelFile,
    input_name: str,
    wanted: tuple[str, ...],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> dict[str, str]:
    known = {input_name, *wanted}
    stray = sorted(set(model.tensors) - known)
    if stray:
        raise InvalidInput(
            f"tensors of {model.file} names {stray[0]!r}; the description's tensors are {', '.join(sorted(known))}"
        )
    if len(inputs) != 1:
        raise InvalidInput(f"{model.file} has the inputs {_listed(inputs)}; a bundle's model has one")
    found = {input_name: _found(model, input_name, inputs, "input")}
    return found | {name: _found(model, name, outputs, "output", alone=len(set(wanted)) == 1) for name in wanted}


def _found(model: ModelFile, name: str, specs: tuple[TensorSpec, ...], role: str, *, alone: bool = True) -> str:
    """What a tensor is called in the file: as told, or the same, or the only one that there is."""
    called = model.tensors.get(name, name)
    if called in {spec.name for spec in specs}:
        return called
    if alone and len(specs) == 1 and name not in model.tensors:
        return specs[0].name
    raise InvalidInput(
        f"{model.file} has no {role} {called!r}; it has {_listed(specs)}. Say which one it is, beside its file: "
        f'tensors = {{ {name} = "{specs[0].name}" }}'
    )


def _listed(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name!r} {spec.dtype} {list(spec.shape)}" for spec in specs) or "none"


def _with_answers(
    told: Description, folder: Path, draft: Manifest, judge: Variant, files: _Files
) -> tuple[Manifest, GoldenInputs]:
    """The draft with golden inputs and the reference's answers to them, and with what is enrolled."""
    name = (told.reference or told.variants[0]).file
    asked = msgspec.structs.replace(draft, variants=(judge,))
    predictor = _loaded(files.bundle(asked), judge, name)
    try:
        front = make_front(asked, _input_of(judge, files))
        golden = gather_golden(folder / told.golden, told.input, told.preprocess, front)
        _require_range(told, _each(predictor.tensor, golden.inputs))
        answers = np.stack(_each(predictor.basis, golden.inputs))
        enrolled = _enrolled(told, folder, predictor, files)
        normal, output = _with_threshold(told, folder, predictor, front)
    finally:
        predictor.close()
    if not np.isfinite(answers).all():
        raise Refused(f"{name} answers NaN or infinity to golden inputs; it is no reference")
    shipped = Golden(
        inputs=files.put(to_npy(golden.inputs)),
        outputs=files.put(to_npy(answers)),
        count=len(golden.inputs),
        tolerance=tolerances(told.output, answers) | told.tolerance,
    )
    if enrolled:
        output = msgspec.structs.replace(output, enrolled=enrolled)
    told_of = replace(golden, sources=golden.sources | normal)
    return msgspec.structs.replace(draft, golden=shipped, output=output), told_of


def _with_threshold(
    told: Description, folder: Path, predictor: Predictor, front: Front
) -> tuple[dict[str, str], Output]:
    """The output as described; an anomaly's with its threshold, and the files that it was set from."""
    if told.normal is None or not isinstance(told.output, Anomaly):
        return {}, told.output
    place = folder / told.normal.inputs
    normal = gather_golden(place, told.input, told.preprocess, front, most=_NORMAL_INPUTS)
    errors = np.concatenate(_each(predictor.basis, normal.inputs))
    threshold = told.normal.times * float(np.quantile(errors, told.normal.share))
    if not 0 < threshold < np.inf:
        raise Refused(f"the errors of {told.normal.inputs} set the threshold to {threshold:g}; expected it above 0")
    return normal.sources, msgspec.structs.replace(told.output, threshold=threshold)


def _loaded(bundle: Bundle, variant: Variant, name: str) -> Predictor:
    try:
        return Predictor(bundle, variant)
    except (InvalidInput, Corrupt) as error:
        raise type(error)(f"{name} does not fit the description: {error}") from error


def _input_of(variant: Variant, files: _Files) -> TensorSpec:
    engine = load_engine(variant.engine, files.read(variant.file))
    spec = engine.inputs[0]
    engine.close()
    return spec


def _each(asked: Callable[[NDArray[Any]], NDArray[np.float32]], inputs: NDArray[Any]) -> list[NDArray[np.float32]]:
    made = []
    for number, one in enumerate(inputs, 1):
        try:
            made.append(asked(one))
        except (InvalidInput, Corrupt) as error:
            raise type(error)(f"golden input number {number}: {error}") from error
    return made


def _require_range(told: Description, tensors: list[NDArray[np.float32]]) -> None:
    """What the description says that the tensor holds is what comes out of its steps: a step that was forgotten, such
    as a division by 255, shows nowhere else."""
    low, high = told.input.value_range
    least, most = (float(found) for found in (np.min(tensors), np.max(tensors)))
    slack = _RANGE_SLACK * (high - low)
    if not low < high:
        raise InvalidInput(f"[input] value_range is {low:g} to {high:g}; expected two ends, the smaller first")
    if least < low - slack or most > high + slack:
        raise InvalidInput(
            f"golden inputs come out of [[preprocess]] from {least:.4g} to {most:.4g}; [input] says value_range = "
            f"[{low:g}, {high:g}]: a step is missing or wrong, or the range is"
        )


def _enrolled(told: Description, folder: Path, predictor: Predictor, files: _Files) -> Enrolled | None:
    """The reference's vectors of the examples: a folder of files for each label."""
    if told.enrol is None or not isinstance(told.output, Embedding):
        return None
    place = folder / told.enrol
    if not place.is_dir():
        raise NotFound(f"enrol names {told.enrol!r}, and there is no folder {place}")
    found = [
        (label.name, path)
        for label in sorted(one for one in place.iterdir() if one.is_dir())
        for path in sorted(one for one in label.iterdir() if one.is_file())
    ]
    if not found:
        raise InvalidInput(f"{place} holds no examples; expected a folder for each label with files of its examples")
    vectors = np.stack([predictor.basis(path) for _, path in found])
    return Enrolled(labels=tuple(label for label, _ in found), vectors=files.put(to_npy(vectors)))


def _proven(
    manifest: Manifest, told: tuple[VariantFile, ...], files: _Files, *, measure: bool, progress: Progress
) -> tuple[Variant, ...]:
    """Each variant replayed and, if asked, measured. Raises Refused with all that failed."""
    made, failed = [], []
    for index, (variant, one) in enumerate(zip(manifest.variants, told, strict=True)):
        progress(index / len(told), f"proving {one.file}")
        bundle = files.bundle(msgspec.structs.replace(manifest, variants=(variant,)))
        predictor = _loaded(bundle, variant, one.file)
        try:
            found = replay(bundle, variant, predictor)
        finally:
            predictor.close()
        if found.failure is not None:
            failed.append(f"{one.file} ({variant.engine} {variant.precision}): {found.failure}")
        elif measure:
            made.append(_measured(variant, bundle, found))
        else:
            made.append(variant)
    if failed:
        raise Refused(
            f"{manifest.ref} is not written. {' '.join(failed)}. Look whether these files are of the same model as the "
            "reference; a variant that is meant to differ more has its bounds in [tolerance.PRECISION]"
        )
    return tuple(made)


def _measured(variant: Variant, bundle: Bundle, found: Replay) -> Variant:
    foot = footprint(bundle)
    measured = Measured(
        # There are no held-out labels: the reference's answers count as right.
        accuracy=None,  # a description names no labels of its samples
        agreement=found.agreement,
        max_abs_error=found.max_abs_error,
        mean_abs_error=found.mean_abs_error,
        latency_p50_ms=foot.latency_p50_ms,
        latency_p99_ms=foot.latency_p99_ms,
        peak_memory_bytes=foot.peak_memory_bytes,
        samples=bundle.manifest.golden.count,
        measured_on=describe(this_machine()),
    )
    return msgspec.structs.replace(variant, measured=measured)


def _needed(manifest: Manifest, files: _Files) -> tuple[FileEntry, ...]:
    needed = {variant.file for variant in manifest.variants} | {manifest.golden.inputs, manifest.golden.outputs}
    if isinstance(manifest.output, Embedding) and manifest.output.enrolled is not None:
        needed.add(manifest.output.enrolled.vectors)
    return entries(files.read(sha256) for sha256 in needed)


def _lineage(description: Path, text: str, sources: dict[str, str]) -> Lineage:
    return Lineage(
        recipe={"description": text, "described_in": description.name},
        data_sha256=sources,
        libraries=library_versions(),
    )
