"""The public models and data that tests use when they are there; without them, those tests are skipped."""

import os
from pathlib import Path

import pytest

VARIABLE = "EDGELOOP_ASSETS"
_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "assets"


def assets_or_skip(*names: str) -> Path:
    """The folder, which holds these files; skips the test if it does not."""
    folder = Path(os.environ.get(VARIABLE, _BESIDE))
    missing = [name for name in names if not (folder / name).exists()]
    if missing or not folder.is_dir():
        pytest.skip(f"{folder} lacks {missing[0] if missing else 'everything'}; name the assets with ${VARIABLE}")
    return folder
