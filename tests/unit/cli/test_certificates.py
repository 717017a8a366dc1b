"""What doctor says of a server's certificate."""

from pathlib import Path

import pytest

from edgeloop.cli.doctor import _certificates
from edgeloop.hub.tls import ServerFiles, issue, make_authority


@pytest.mark.parametrize(("days", "state"), [(397, "ok"), (29, "warning"), (-2, "error")])
def test_doctor_warns_before_a_certificate_ends(tmp_path: Path, days: int, state: str) -> None:
    make_authority(tmp_path / "keys")
    issue(tmp_path / "keys", ServerFiles(tmp_path / "tls"), ("cloud.test",), days=days)
    server, authority = _certificates(tmp_path)
    assert (server.state, "tls renew" in server.fix) == (state, state != "ok")
    assert authority.state == "ok"


def test_folder_without_certificates_is_not_spoken_of(tmp_path: Path) -> None:
    assert _certificates(tmp_path) == []


def test_file_that_is_no_certificate_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tls").mkdir()
    (tmp_path / "tls" / "server.pem").write_text("x")
    assert [one.state for one in _certificates(tmp_path)] == ["error"]
