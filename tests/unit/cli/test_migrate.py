"""`edgeloop cloud migrate`, as a person types it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeloop.cli.app import app
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.contracts.errors import Refused


def test_going_back_loses_roots_only_where_it_is_told_to(tmp_path: Path) -> None:
    found(CloudConfig(folder=tmp_path / "cloud"), keys=tmp_path / "keys", url="http://127.0.0.1:0")
    back = ["cloud", "migrate", "--dir", str(tmp_path / "cloud"), "--to", "0001", "--json"]
    refused = CliRunner().invoke(app, back).exception
    with pytest.raises(Refused, match=r"2 are in this database.*--lose-roots"):
        raise refused or AssertionError("it went back")
    told = CliRunner().invoke(app, [*back, "--lose-roots"])
    assert json.loads(told.stdout)["to"] == "0001"
