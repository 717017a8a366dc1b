"""A dataset by name or path: what lies there says which reader is asked."""

from pathlib import Path

from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.data.arrays import read_arrays
from edgeloop.toolchain.data.dataset import FEWEST_TO_SPLIT, Dataset, Prepared, prepare
from edgeloop.toolchain.data.digits import BUNDLED, load_digits
from edgeloop.toolchain.data.folders import Listing, list_folder
from edgeloop.toolchain.data.idx import is_idx_folder, read_idx_samples
from edgeloop.toolchain.data.images import images_beside_classes, is_image_folder, read_images
from edgeloop.toolchain.data.samples import Samples
from edgeloop.toolchain.data.sound import SOUND_SUFFIX, read_sounds
from edgeloop.toolchain.data.table import read_table

DIGITS = "digits"

FORMS = (
    "'digits', a folder of images or WAV files with one sub-folder a class (or flat, without labels), "
    "a folder of IDX files, a .csv or a .npz file"
)
"""What data may be, for messages."""


def open_dataset(where: str, *, source: str = BUNDLED, taken: TensorSpec | None = None, seed: int = 0) -> Dataset:
    """A dataset by name or path (see FORMS), split the same way for the same seed.

    source: where "digits" come from: "bundled", "keras", or a folder of IDX files. taken: the input of the model
    that it is for, which says what size images and sounds are brought to. A .csv names its label column "label", or
    is given as FILE.csv:COLUMN. Raises NotFound, Corrupt naming the files, InvalidInput, or Unavailable if digits
    cannot be fetched.
    """
    if where == DIGITS:
        return load_digits(source, seed=seed)
    return _read(where, taken).dataset(seed=seed)


def calibration_samples(
    where: str, taken: TensorSpec, *, source: str = BUNDLED, seed: int = 0, value_range: tuple[float, float] = (0, 1)
) -> Prepared:
    """Data to calibrate with, in its fit part; labels are not needed.

    16 samples are enough: below 200 all are in the fit part and the others are empty; from there on it is split, so
    that what judges stays unseen. value_range: as for `prepare`. Raises as `open_dataset`.
    """
    if where == DIGITS:
        dataset = load_digits(source, seed=seed)
    else:
        samples = _read(where, taken)
        large = len(samples.labels) >= FEWEST_TO_SPLIT
        dataset = samples.dataset(seed=seed) if large else samples.unsplit(seed=seed)
    return prepare(dataset, taken, value_range=value_range)


def require_labels_match(dataset: Dataset, scores_width: int) -> None:
    """Raise InvalidInput unless a model of so many scores can be judged by this dataset's labels."""
    if dataset.is_labelled and scores_width != len(dataset.label_names):
        names = ", ".join(dataset.label_names[:5]) + (", ..." if len(dataset.label_names) > 5 else "")
        raise InvalidInput(
            f"the model has {scores_width} outputs, {dataset.name} {len(dataset.label_names)} labels ({names}); "
            "give the data that the model was trained for, with one folder a class"
        )


def _read(where: str, taken: TensorSpec | None) -> Samples:
    table, colon, column = where.rpartition(":")
    if colon and table.endswith(".csv"):
        return read_table(Path(table), label_column=column)
    path = Path(where)
    if path.is_dir():
        return _read_folder(path, taken)
    if path.suffix == ".csv":
        return read_table(path)
    if path.suffix == ".npz":
        return read_arrays(path)
    if path.is_file():
        raise InvalidInput(f"{path.name} ends in {path.suffix or 'nothing'!r}; data is {FORMS}")
    raise NotFound(f"there is no dataset or path {where!r}; data is {FORMS}")


def _read_folder(folder: Path, taken: TensorSpec | None) -> Samples:
    if is_idx_folder(folder):
        return read_idx_samples(folder)
    listing = list_folder(folder)
    images, sounds = is_image_folder(listing), SOUND_SUFFIX in listing.suffixes()
    if images and sounds:
        raise InvalidInput(f"{folder} holds images and WAV files; expected one kind")
    if images:
        _require_no_strays(listing)
        return read_images(listing, taken=taken)
    if sounds:
        return read_sounds(listing, taken=taken)
    raise NotFound(f"{folder} holds no samples; data is {FORMS}")


def _require_no_strays(listing: Listing) -> None:
    strays = images_beside_classes(listing.folder) if listing.label_names else []
    if strays:
        raise InvalidInput(
            f"{listing.folder} has class folders and {len(strays)} images beside them, {strays[0].name} first; "
            "put each into a class folder, or all straight into one folder without classes"
        )
