"""What a person says of a finished model: one TOML file, beside the files that it names.

    name = "faces"
    version = "2.1.0"
    labels = ["face"]                       # or a text file with one a line
    golden = "photos/"                      # 16 or more real inputs
    [input]                                 # contracts.manifest.InputSpec
    [[preprocess]]                          # contracts.preprocess, in order
    [output]                                # one of contracts.output
    [reference]                             # the model whose answers count as right; the first variant unless told
    [[variants]]                            # file, precision; engine and tensors where they are not plain
    [reuse] / [budget] / [tolerance.int8]   # contracts.manifest, where the defaults do not fit

Nothing is guessed: what is not said has the contracts' defaults. Neighbours: `toml` reads it, `pack` obeys it.
"""

from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.manifest import Budget, EngineName, InputSpec, Precision, Reuse, Tolerance
from edgeloop.contracts.names import BundleRef
from edgeloop.contracts.output import Anomaly, Embedding, Output, Task
from edgeloop.contracts.preprocess import Step
from edgeloop.contracts.strict import Strict
from edgeloop.toolchain.described.toml import decode_toml
from edgeloop.toolchain.source.engine import ENGINES, SUFFIXES


class ModelFile(Strict, frozen=True, kw_only=True):
    """A model. engine: from the file's suffix unless told. tensors: from the manifest's tensor names to those in the
    file; a tensor that has the same name, or is the only one, need not be told."""

    file: str
    engine: EngineName | None = None
    tensors: dict[str, str] = {}


class VariantFile(ModelFile, frozen=True, kw_only=True):
    """A model that the bundle is to hold."""

    precision: Precision


class Normal(Strict, frozen=True, kw_only=True):
    """What an anomaly's threshold is set from: the error that `share` of these normal inputs stay below, times `times`.

    inputs: a folder or a file of arrays, as golden inputs are given; of many, 1,000 are taken.
    """

    inputs: str
    share: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.99
    times: Annotated[float, msgspec.Meta(gt=0.0)] = 1.1


class Description(Strict, frozen=True, kw_only=True):
    """The document.

    labels: themselves, or the name of a UTF-8 text file with one a line; number_doubles: a label that stands on several
    lines of that file gets the line's number, as "crane (135)". golden: a folder of images, WAV files or CSV tables,
    or a .npy or .npz file of what goes in. enrol: of an embedding, a folder with a folder of examples for each label.
    normal: of an anomaly, in place of the output's threshold.
    tolerance: how far variants may lie from the reference, where `tolerance.tolerances` does not fit.
    """

    name: str
    version: str
    golden: str
    input: InputSpec
    output: Output
    variants: Annotated[tuple[VariantFile, ...], msgspec.Meta(min_length=1)]
    labels: tuple[str, ...] | str = ()
    number_doubles: bool = False
    preprocess: tuple[Step, ...] = ()
    reference: ModelFile | None = None
    enrol: str | None = None
    normal: Normal | None = None
    tolerance: dict[Precision, Tolerance] = {}
    reuse: Reuse = Reuse()
    budget: Budget = Budget()


def read_description(path: Path) -> tuple[Description, str]:
    """A description and its text, as it stands in the file. Raises NotFound, or InvalidInput naming what is wrong."""
    if not path.is_file():
        raise NotFound(f"there is no description at {path}; expected a TOML file that describes a finished model")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path.name} is not UTF-8 text: {error}") from error
    found = decode_toml(text, Description, what=path.name, amend=_leave_threshold_open)
    if found.normal is not None and not isinstance(found.output, Anomaly):
        raise InvalidInput(f"{path.name}: normal is for an anomaly, whose threshold it sets; leave it out")
    BundleRef.parse(f"{found.name}@{found.version}")
    if found.number_doubles and not isinstance(found.labels, str):
        raise InvalidInput(f"{path.name}: number_doubles is for a file of labels; here they stand in the description")
    _check_enrolment(found, path.name)
    _check_variants(found, path.name)
    return found, text


def read_labels(description: Description, folder: Path) -> tuple[str, ...]:
    """The labels, from the file where they stand in one. Raises NotFound or InvalidInput, naming lines."""
    if not isinstance(description.labels, str):
        return description.labels
    path = require_file(folder, description.labels, "labels")
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path.name} is not UTF-8 text: {error}") from error
    labels = [line.strip() for line in lines]
    places: dict[str, list[int]] = defaultdict(list)
    for number, label in enumerate(labels, 1):
        places[label].append(number)
    if "" in places:
        raise InvalidInput(f"{path.name}, line {places[''][0]}, is empty; expected a label on every line")
    doubled = {label: numbers for label, numbers in places.items() if len(numbers) > 1}
    if doubled and not description.number_doubles:
        label, numbers = next(iter(doubled.items()))
        raise InvalidInput(
            f"{path.name} has the label {label!r} on the lines {', '.join(map(str, numbers))}; make them distinct, or "
            f"set number_doubles = true to have {f'{label} ({numbers[0]})'!r} and so on"
        )
    return tuple(f"{label} ({number})" if label in doubled else label for number, label in enumerate(labels, 1))


def engine_of(model: ModelFile) -> EngineName:
    """What runs a file. Raises InvalidInput if neither the description nor its suffix says so."""
    if model.engine is not None:
        return model.engine
    form = SUFFIXES.get(Path(model.file).suffix.lower())
    if form is None:
        raise InvalidInput(
            f"{model.file} ends in {Path(model.file).suffix or 'nothing'!r}, which no engine is known by (they are "
            f"{', '.join(SUFFIXES)}); say engine = one of {', '.join(EngineName)}, or convert it ('edgeloop convert')"
        )
    return ENGINES[form]


def require_file(folder: Path, name: str, key: str) -> Path:
    """A file that the description names. Raises NotFound."""
    path = folder / name
    if not path.is_file():
        raise NotFound(f"{key} names {name!r}, and there is no file {path}; names are relative to the description")
    return path


def _check_variants(description: Description, what: str) -> None:
    told = [(one.file, one.engine) for one in description.variants]
    twice = next((file for file, engine in told if told.count((file, engine)) > 1), None)
    if twice is not None:
        raise InvalidInput(f"{what}: {twice} stands in [[variants]] more than once; each file is one variant")


def _leave_threshold_open(document: dict[str, Any]) -> None:
    """An anomaly's threshold that is to be set from normal inputs is any number until then."""
    output = document.get("output")
    if "normal" not in document or not isinstance(output, dict) or output.get("task") != Task.ANOMALY:
        return
    if "threshold" in output:
        raise InvalidInput("in output: threshold, and normal sets it from inputs; leave one of them out")
    output["threshold"] = 1.0


def _check_enrolment(description: Description, what: str) -> None:
    is_embedding = isinstance(description.output, Embedding)
    if description.enrol is not None and not is_embedding:
        raise InvalidInput(f"{what}: enrol is for an embedding, whose labels come from examples; leave it out")
    if isinstance(description.output, Embedding) and description.output.enrolled is not None:
        raise InvalidInput(
            f"{what}: in output: enrolled is made when the bundle is; name a folder of examples with enrol = FOLDER"
        )
