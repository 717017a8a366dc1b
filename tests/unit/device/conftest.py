"""Makes `cameras`, which lie with the tests of the sources, importable from the tests of this folder; `folder`, which
holds a device's state."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from updating import Folder

sys.path.insert(0, str(Path(__file__).parents[1] / "runtime" / "sources"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    made.close()
