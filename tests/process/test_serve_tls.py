"""A server behind TLS, asked over https by clients that check whom they ask, against an authority of the test's own."""

import http.client
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from builders import LABELS, make_bundle
from served import IMAGES, RAW, TIMEOUT_S, Served, Start, asked, starting


class Authority:
    """A private certificate authority: its certificate, and those that it signs, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("an authority of the tests")
        signed = _builder(self._name, self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        self.certificate = folder / "authority.pem"
        made = signed.add_extension(usage, critical=True).sign(self._key, hashes.SHA256())
        self.certificate.write_bytes(made.public_bytes(Encoding.PEM))

    def sign(self, file: str, *, passphrase: bytes = b"") -> tuple[Path, Path]:
        """A certificate for 127.0.0.1, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        signed = (
            _builder(_name("a server"), self._name, key)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        certificate, secret = self._folder / f"{file}.pem", self._folder / f"{file}.key"
        certificate.write_bytes(signed.public_bytes(Encoding.PEM))
        kept: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, kept))
        return certificate, secret


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    with starting(tmp_path_factory.mktemp("serve")) as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, start: Start, authority: Authority) -> Served:
    certificate, key = authority.sign("server")
    made = start(make_bundle(tmp_path_factory.mktemp("bundle")), "--tls-cert", certificate, "--tls-key", key)
    made.trust = ssl.create_default_context(cafile=str(authority.certificate))
    return made


def test_client_that_trusts_the_authority_is_answered_on_one_connection(server: Served) -> None:
    assert server.scheme == "https"
    connection = server.connect()
    for index in range(4):
        status, _, made = asked(connection, IMAGES[index].tobytes())
        assert (status, json.loads(made)["label"]) == (200, LABELS[index])
    assert connection.sock.version() in ("TLSv1.2", "TLSv1.3")
    connection.close()


def test_large_body_and_large_answer_pass(server: Served) -> None:
    assert server.trust is not None
    images = (IMAGES[:1, :, :, None] / 255.0).repeat(250, axis=0).tolist()
    asked_for = {"inputs": [{"name": "image", "shape": [250, 8, 8, 1], "datatype": "FP32", "data": images}]}
    with httpx.Client(verify=server.trust, timeout=TIMEOUT_S) as client:
        reply = client.post(f"https://{server.host}/v2/models/tiny/infer", json=asked_for)
    assert (reply.status_code, reply.json()["outputs"][0]["shape"]) == (200, [250, 4])


def test_client_that_does_not_know_the_authority_asks_nothing(server: Served) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        asked(http.client.HTTPSConnection(server.host, timeout=TIMEOUT_S), b"")


def test_certificate_of_another_name_is_not_taken(server: Served) -> None:
    by_name = f"localhost:{server.address[1]}"
    with pytest.raises(ssl.SSLCertVerificationError, match="localhost"):
        asked(http.client.HTTPSConnection(by_name, timeout=TIMEOUT_S, context=server.trust), b"")


def test_plain_http_is_not_answered_and_hurts_nobody(server: Served) -> None:
    plain = http.client.HTTPConnection(server.host, timeout=TIMEOUT_S)
    with pytest.raises((ConnectionError, http.client.BadStatusLine)):
        asked(plain, IMAGES[0].tobytes())
    plain.close()
    assert server.ask(**RAW)[0] == 200


def refusal(folder: Path, *options: str | Path) -> tuple[int, str]:
    """How a server ends that is not to start, and what it says."""
    arguments = ["-m", "edgeloop", "serve", str(make_bundle(folder)), "--port", "0", "--no-race", *map(str, options)]
    ended = subprocess.run(
        [sys.executable, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    return ended.returncode, " ".join((ended.stdout + ended.stderr).split())


def test_wrong_files_are_told_before_anything_is_loaded(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.sign("good")
    _, other_key = authority.sign("other")
    locked, locked_key = authority.sign("locked", passphrase=b"a secret")
    missing, empty = tmp_path / "missing.pem", tmp_path / "empty.pem"
    empty.write_bytes(b"")
    for cert, secret in (
        (missing, key),
        (certificate, missing),
        (certificate, other_key),
        (empty, key),
        (locked, locked_key),
    ):
        code, said = refusal(tmp_path, "--tls-cert", cert, "--tls-key", secret)
        assert code == 2
        assert str(cert) in said.replace(" ", "") or str(secret) in said.replace(" ", "")
        assert "PEM certificate chain" in said
        assert "model_served" not in said


def test_key_or_other_address_without_a_certificate_is_refused(tmp_path: Path, authority: Authority) -> None:
    _, key = authority.sign("lonely")
    for options in (("--tls-key", key), ("--host", "0.0.0.0")):
        code, said = refusal(tmp_path, *options)
        assert (code, "--tls-cert" in said) == (2, True)
