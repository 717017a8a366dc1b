import asyncio
import itertools
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound
from edgeloop.contracts.join import Join, parse_join_token
from edgeloop.hub.serve import Listen, bind, listening
from edgeloop.hub.tls import (
    ServerFiles,
    authority_der,
    days_left,
    follow,
    hosts_of,
    issue,
    make_authority,
    parse_hosts,
    read_certificate,
)


@pytest.fixture
def files(tmp_path: Path) -> ServerFiles:
    make_authority(tmp_path / "keys")
    made = ServerFiles(tmp_path / "cloud" / "tls")
    issue(tmp_path / "keys", made, ("cloud.example.org", "192.168.1.10"))
    return made


def test_certificate_names_what_was_asked_for(files: ServerFiles) -> None:
    assert hosts_of(files) == ("cloud.example.org", "192.168.1.10")


def test_certificate_ends_when_it_is_told_to(files: ServerFiles) -> None:
    assert 396 < days_left(files.cert) < 397
    assert days_left(files.cert, now=datetime.now(UTC) + timedelta(days=400)) < 0


def test_device_whose_clock_says_1970_can_verify_it(files: ServerFiles) -> None:
    assert read_certificate(files.cert).not_valid_before_utc == datetime(1970, 1, 1, tzinfo=UTC)
    assert read_certificate(files.ca).not_valid_before_utc == datetime(1970, 1, 1, tzinfo=UTC)


def test_server_certificate_cannot_sign_others(files: ServerFiles) -> None:
    held = read_certificate(files.cert).extensions
    assert not held.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not held.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


def test_keys_are_for_their_owner_only(files: ServerFiles, tmp_path: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in (files.key, tmp_path / "keys/tls-ca.key")} == {0o600}


def test_authority_that_is_there_stays(files: ServerFiles, tmp_path: Path) -> None:
    before = (tmp_path / "keys/tls-ca.pem").read_bytes()
    make_authority(tmp_path / "keys")
    assert (tmp_path / "keys/tls-ca.pem").read_bytes() == before


def test_join_token_carries_the_authority(files: ServerFiles) -> None:
    join = Join("s" * 43, "0" * 32, authority_der(files))
    assert parse_join_token(str(join)) == join
    assert join.ca_pem == files.ca.read_text()
    assert len(str(join)) < 800


def test_cloud_without_an_authority_makes_short_tokens(tmp_path: Path) -> None:
    assert authority_der(ServerFiles(tmp_path)) == b""


@pytest.mark.parametrize("text", ["", ",", "a b", "-x", "x-", "a..b", "a/b", "../x", "a\nb", "*.example.org", "a" * 64,
                                  "x" + ".x" * 127, "é", "1.2.3.4/8", "a,", "host\0"])  # fmt: skip
def test_what_is_no_host_is_turned_down(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_hosts(text)


def test_hosts_are_names_and_addresses() -> None:
    assert parse_hosts("Cloud.Example.org, 10.0.0.1,::1") == ("cloud.example.org", "10.0.0.1", "::1")


def test_issuing_without_the_authority_says_where_it_should_be(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="--keys"):
        issue(tmp_path, ServerFiles(tmp_path), ("a",))


def test_file_that_is_no_certificate_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n")
    with pytest.raises(Corrupt):
        read_certificate(tmp_path / "x.pem")


def test_server_takes_the_certificate_in_its_folder_unless_told_otherwise(files: ServerFiles, tmp_path: Path) -> None:
    assert listening(files.folder.parent, "0.0.0.0", 1, None, None) == Listen("0.0.0.0", 1, files.cert, files.key)
    told = (tmp_path / "a.pem", tmp_path / "a.key")
    assert listening(files.folder.parent, "h", 1, *told) == Listen("h", 1, *told)
    assert listening(tmp_path, "127.0.0.1", 1, None, None) == Listen("127.0.0.1", 1)


async def _presented(port: int, ca: Path) -> int:
    """The serial number of the certificate that a verifying client is shown."""
    context = ssl.create_default_context(cafile=ca)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(shown).serial_number


@pytest.mark.anyio
async def test_name_that_the_certificate_is_not_for_is_refused(files: ServerFiles) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cafile=files.ca)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.example\.org"):
        await asyncio.open_connection("127.0.0.1", port, ssl=trusting, server_hostname="other.example.org")
    server.close()


@pytest.mark.anyio
async def test_renewed_certificate_is_served_without_a_restart(files: ServerFiles, tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    task = asyncio.create_task(follow(context, files.cert, files.key, every_s=0.01))
    port = server.sockets[0].getsockname()[1]
    first = await _presented(port, files.ca)
    await asyncio.to_thread(issue, tmp_path / "keys", files, ("cloud.example.org",))
    wanted = read_certificate(files.cert).serial_number
    async with asyncio.timeout(10):
        while await _presented(port, files.ca) != wanted:
            await asyncio.sleep(0.01)
    task.cancel()
    server.close()
    assert first != wanted


class PowerCut(BaseException):
    """From here on nothing is written."""


@pytest.mark.parametrize("layout", ["one file", "two files"])
@pytest.mark.parametrize("steps", [1, 2])
def test_power_cut_between_the_steps_of_a_renewal_leaves_a_certificate_that_serves(
    files: ServerFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, layout: str
) -> None:
    """Files are replaced one by one; the cut comes after so many of them."""
    if layout == "two files":  # as an earlier edgeloop wrote it
        _apart(files, files.cert, files.folder / "server.key")
    replace, left = Path.replace, itertools.count(steps - 1, -1)

    def cut_after(path: Path, target: Path) -> Path:
        replaced = replace(path, target)
        if not next(left):
            raise PowerCut
        return replaced

    monkeypatch.setattr(Path, "replace", cut_after)
    with pytest.raises(PowerCut):
        issue(tmp_path / "keys", files, ("cloud.example.org",))
    bind(listening(files.folder.parent, "127.0.0.1", 0, None, None)).close()


def _apart(files: ServerFiles, cert: Path, key: Path) -> None:
    """The issued certificate and its key in two files, as others make them."""
    held, chain = files.cert.read_text().split("-----BEGIN CERTIFICATE", 1)
    key.write_text(held)
    cert.write_text(f"-----BEGIN CERTIFICATE{chain}")


@pytest.mark.anyio
async def test_certificate_whose_key_comes_late_is_taken_once_it_is_there(files: ServerFiles, tmp_path: Path) -> None:
    """Two files that something else renews, one after the other."""
    cert, beside = tmp_path / "a.pem", tmp_path / "a.key"
    _apart(files, cert, beside)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, beside)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    before = await _presented(port, files.ca)
    issue(tmp_path / "keys", files, ("cloud.example.org",))
    with capture_logs() as said:
        task = asyncio.create_task(follow(context, cert, beside, every_s=0.01))
        await asyncio.sleep(0)
        _apart(files, cert, late := tmp_path / "late.key")
        async with asyncio.timeout(60):
            while not any(one["event"] == "certificate_not_taken" for one in said):
                await asyncio.sleep(0.01)
            assert await _presented(port, files.ca) == before, "the old one goes on serving"
            late.replace(beside)
            while await _presented(port, files.ca) != read_certificate(files.cert).serial_number:
                await asyncio.sleep(0.01)
    task.cancel()
    server.close()
