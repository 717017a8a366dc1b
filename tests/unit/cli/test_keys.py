"""`edgeloop keys` against a cloud in a process of its own, as a person types it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from builders import make_bundle
from edgeloop.cli.app import app
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.transport.cloud_api import read_operator
from processes import Process


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cloud"
    found(CloudConfig(folder=folder), keys=tmp_path / "keys", url="http://127.0.0.1:0")
    serving = ("-m", "edgeloop", "cloud", "serve", "--json", "--dir", str(folder), "--port", "0")
    cloud = Process(*serving, log=tmp_path / "cloud.log")
    try:
        operator = json.loads((folder / "operator.json").read_text())
        operator["url"] = cloud.start()["url"]
        (folder / "operator.json").write_text(json.dumps(operator))
        yield tmp_path
    finally:
        cloud.stop()


def _done(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None, result.exception
    return result.stdout


def _refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, Refused | InvalidInput), result.output
    return str(result.exception)


def test_keys_are_rotated_and_publishing_goes_on(place: Path) -> None:
    _done("keys", "rotate", "targets", "--new-key", "keys/targets-2.pem")
    make_bundle(place)
    _done("bundle", "publish", "tiny-1.0.0.edgeloop")
    assert read_operator(place / "cloud" / "operator.json").targets_key == str(place / "keys" / "targets-2.pem")
    held = set((place / "cloud" / "online").iterdir())
    _done("keys", "rotate", "online", "--repository", "director")
    assert [path.name for path in held - set((place / "cloud" / "online").iterdir())] == ["director.pem"]
    _done("keys", "rotate", "root", "--new-key", "keys/root-2.pem")
    assert "signatures are missing" in _refused("keys", "rotate", "online")
    shown = json.loads(_done("keys", "renew", "root", "--root-key", "keys/root-2.pem", "--json"))
    versions = {(role["repository"], role["role"]): role["version"] for role in shown}
    assert (versions["images", "root"], versions["director", "root"], versions["images", "targets"]) == (4, 4, 3)


def test_two_people_sign_a_change(place: Path) -> None:
    _done("keys", "make", "alice.pem")
    threshold = ("keys", "threshold", "targets", "2", "--add-key", "alice.pem.pub")
    assert "1 more of the targets keys" in _refused(*threshold)
    _done(*threshold, "--out", "change.json")
    assert "signatures are missing" in _refused("keys", "submit", "change.json")
    _done("keys", "sign", "change.json", "--targets-key", "alice.pem")
    assert "2 of 2" in _done("keys", "submit", "change.json")
    make_bundle(place)
    assert "not signed by the targets key" in _refused("bundle", "publish", "tiny-1.0.0.edgeloop")
    _done("bundle", "publish", "tiny-1.0.0.edgeloop", "--key", "keys/targets.pem", "--key", "alice.pem")


def test_key_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.pem").write_text("precious")
    assert "never overwritten" in _refused("keys", "make", str(tmp_path / "mine.pem"))
    assert (tmp_path / "mine.pem").read_text() == "precious"
