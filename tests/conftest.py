"""Makes the modules beside this file (`builders`) importable from every test, and founds one cloud to copy from."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from small_cloud import SmallCloud


@pytest.fixture
def anyio_backend() -> str:
    """What tests marked `anyio` run on."""
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests, and the processes that they start, remember of races stays out of the person's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def cloud_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A founded cloud, for copying only."""
    from small_cloud import found_template

    return found_template(tmp_path_factory.mktemp("template"))


@pytest.fixture
def cloud(cloud_template: Path, tmp_path: Path) -> "Iterator[SmallCloud]":
    """A cloud of the test's own, in tmp_path."""
    from small_cloud import SmallCloud

    opened = SmallCloud(cloud_template, tmp_path)
    yield opened
    opened.close()
