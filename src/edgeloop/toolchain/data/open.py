"""A dataset by name or path: which reader is asked for it."""

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.data.dataset import Dataset
from edgeloop.toolchain.data.digits import BUNDLED, load_digits


def load_dataset(name: str, *, source: str = BUNDLED, seed: int = 0) -> Dataset:
    """A dataset by name, split the same way for the same seed.

    source: "bundled", "keras", or a folder of IDX files (gzipped or not). Raises NotFound, Corrupt, InvalidInput,
    or Unavailable if it cannot be fetched.
    """
    if name != "digits":
        raise InvalidInput(f"there is no dataset {name!r}; known: digits")
    return load_digits(source, seed=seed)
