"""A search as it lies on the disk: taken up again after Ctrl-C, a kill or a power cut, each file whole or absent.

OUT/search.json              what is searched: recipe, source, data
OUT/generations/0003.json    the plans of a generation, written before any of them is tried
OUT/trials/0013.json         what came of one
OUT/files/SHA256             trained bodies and finished variants, by content
"""

from pathlib import Path

import msgspec

from edgeloop.bundle.archive import digest
from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.codec import SCHEMA, from_json, to_pretty_json
from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.names import Sha256
from edgeloop.toolchain.compress.plan import CompressRecipe, Outcome, Plan


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What is searched. model: the source's file name. data: as it was named; input_range: of its images."""

    recipe: CompressRecipe
    model: str
    model_sha256: Sha256
    data: str
    data_sha256: Sha256
    data_seed: int
    input_range: tuple[float, float]
    schema: int = SCHEMA


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One plan that was tried. spent_s: of the budget when it was done, over all sittings."""

    number: int
    outcome: Outcome
    spent_s: float
    schema: int = SCHEMA


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """Plans proposed at once. first: the number of the first of them."""

    first: int
    plans: tuple[Plan, ...]
    schema: int = SCHEMA


class Records:
    """Reads and writes a search's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, search: Search) -> Search:
        """Start, or go on; returns the search with what was settled when it began.

        Raises InvalidInput if the folder holds another search, with what differs.
        """
        path = self._folder / "search.json"
        if path.is_file():
            before = from_json(path.read_bytes(), Search, what=str(path))
            different = [name for name, value in _identity(search).items() if _identity(before)[name] != value]
            if different:
                raise InvalidInput(
                    f"{self._folder} holds another search (it differs in {', '.join(different)}); "
                    "choose another --out, or give the same options to go on with it"
                )
            settled = msgspec.structs.replace(search.recipe, images_seen=before.recipe.images_seen)
            search = msgspec.structs.replace(search, recipe=settled)
        write_durable(path, to_pretty_json(search))
        return search

    def search(self) -> Search:
        """What was searched. Raises NotFound if nothing was."""
        path = self._folder / "search.json"
        if not path.is_file():
            raise NotFound(f"there is no search in {self._folder}; make one with 'edgeloop compress MODEL --out'")
        return from_json(path.read_bytes(), Search, what=str(path))

    def generations(self) -> list[Generation]:
        """All of them, in order."""
        return [from_json(path.read_bytes(), Generation, what=str(path)) for path in self._all("generations")]

    def trials(self) -> list[Trial]:
        """All that are done, by number."""
        return [from_json(path.read_bytes(), Trial, what=str(path)) for path in self._all("trials")]

    def write_generation(self, index: int, generation: Generation) -> None:
        """Keep a generation before it is tried."""
        write_durable(self._folder / "generations" / f"{index:04d}.json", to_pretty_json(generation))

    def write_trial(self, trial: Trial) -> None:
        """Keep what came of a plan."""
        write_durable(self._folder / "trials" / f"{trial.number:04d}.json", to_pretty_json(trial))

    def put(self, data: bytes) -> str:
        """Keep a file; returns its hash."""
        sha256 = digest(data)
        path = self._folder / "files" / sha256
        if not path.is_file():
            write_durable(path, data)
        return sha256

    def read(self, sha256: str) -> bytes:
        """A file by hash. Raises NotFound."""
        path = self._folder / "files" / sha256
        if not path.is_file():
            raise NotFound(f"{path} is missing; search again into a new folder")
        return path.read_bytes()

    def _all(self, kind: str) -> list[Path]:
        return sorted((self._folder / kind).glob("[0-9]*.json"))


def _identity(search: Search) -> dict[str, object]:
    """What makes two searches the same: all but how long they may take, and under what name the files lay."""
    recipe = msgspec.structs.replace(search.recipe, budget_s=None, trials=None, images_seen=0)
    return {
        **{f"recipe {name}": getattr(recipe, name) for name in recipe.__struct_fields__},
        "model": search.model_sha256,
        "data": search.data_sha256,
        "data seed": search.data_seed,
        "input range": tuple(search.input_range),
    }
