import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeloop.cli.service.account import Account, give_folder


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("strict_umask")
def test_account_can_come_to_its_folder_whatever_roots_umask_is(tmp_path: Path) -> None:
    folder = tmp_path / "srv" / "edgeloop" / "device"
    give_folder(folder, Account("me", os.getuid(), os.getgid(), ()))
    modes = [oct(one.stat().st_mode & 0o777) for one in (folder, *folder.parents[:2])]
    assert modes == ["0o700", "0o755", "0o755"]
