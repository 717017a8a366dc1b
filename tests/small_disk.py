"""A disk that is soon full, for tests of what then happens."""

import subprocess
from pathlib import Path

import pytest


class small_disk:  # noqa: N801 - reads as a clause in `with`
    """A disk of 6 MB, mounted for a test; skips where mounting is not permitted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Path:
        self._folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(self._folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("mounting a small disk is not permitted here")
        return self._folder

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return ballast
