"""A private certificate authority for one installation, and the server certificates that it signs.

The authority's key stays with the offline keys; a cloud or node has its own certificate only. They are valid from 1970
on, on purpose: a device whose clock starts there can still verify the one it talks to, and learns the time from it.
What counts is the end: a certificate that expired is refused by every client. Neighbours: `serve` serves with them,
`contracts.join` carries the authority in the join token.
"""

import asyncio
import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from ssl import Purpose, SSLContext, SSLError, create_default_context

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound

CA_KEY = "tls-ca.key"
CA_CERT = "tls-ca.pem"
SERVER_DAYS = 397
WARN_DAYS = 30
_CA_DAYS = 20 * 365
_FROM = datetime(1970, 1, 1, tzinfo=UTC)
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_KEY_BESIDE = "server.key"
_ALWAYS = ("localhost", "127.0.0.1", "::1")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ServerFiles:
    """A server's certificate in its folder."""

    folder: Path

    @property
    def cert(self) -> Path:
        """The certificate with its authority behind it, and its private key (PEM, mode 0600)."""
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        """Where its private key is: in the same file, or beside it where an earlier edgeloop issued it."""
        return self.cert if _holds_key(self.cert) else self.folder / _KEY_BESIDE

    @property
    def ca(self) -> Path:
        """The authority's certificate, for clients."""
        return self.folder / "ca.pem"


def parse_hosts(text: str) -> tuple[str, ...]:
    """Host names and addresses out of HOST[,IP...]. Raises InvalidInput if one of them is none."""
    hosts = tuple(part.strip().lower() for part in text.split(","))
    for host in hosts:
        if not _HOST.fullmatch(host) and _address(host) is None:
            raise InvalidInput(
                f"{host!r} is no host name and no address; give what devices will call this server, such as "
                "cloud.example.org,192.168.1.10"
            )
    return hosts


def make_authority(keys: Path) -> None:
    """An authority beside the offline keys; one that is there stays, since devices trust it."""
    if (keys / CA_CERT).exists():
        return
    key = ec.generate_private_key(ec.SECP256R1())
    name = _named("edgeloop private CA")
    made = _unsigned(name, key.public_key(), days=_CA_DAYS).issuer_name(name)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = made.add_extension(_usage(is_ca=True), critical=True)
    write_durable(keys / CA_KEY, _pem(key), mode=0o600)
    write_durable(keys / CA_CERT, made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))


def authority_der(files: ServerFiles) -> bytes:
    """The authority's certificate as a join token carries it; empty where there is none."""
    return read_certificate(files.ca).public_bytes(Encoding.DER) if files.ca.is_file() else b""


def issue(keys: Path, files: ServerFiles, hosts: tuple[str, ...], *, days: int = SERVER_DAYS) -> None:
    """A server certificate for these names, with a new key; an earlier one is replaced, in one step: a power cut leaves
    the old one or the new one, and never a certificate with the key of the other.

    Raises NotFound where the authority is missing.
    """
    authority, authority_key = _authority(keys)
    key = ec.generate_private_key(ec.SECP256R1())
    made = _unsigned(_named(hosts[0][:64]), key.public_key(), days=days).issuer_name(authority.subject)
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(_usage(is_ca=False), critical=True)
    made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    made = made.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
    )
    names = x509.SubjectAlternativeName([_san(host) for host in dict.fromkeys((*hosts, *_ALWAYS))])
    made = made.add_extension(names, critical=False)
    chain = made.sign(authority_key, hashes.SHA256()).public_bytes(Encoding.PEM) + authority.public_bytes(Encoding.PEM)
    write_durable(files.ca, authority.public_bytes(Encoding.PEM))
    write_durable(files.cert, _pem(key) + chain, mode=0o600)
    (files.folder / _KEY_BESIDE).unlink(missing_ok=True)


def hosts_of(files: ServerFiles) -> tuple[str, ...]:
    """The names that a certificate was issued for. Raises NotFound without one, Corrupt if it is none."""
    names = read_certificate(files.cert).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(one.value) for one in names if str(one.value) not in _ALWAYS) or _ALWAYS[:1]


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file. Raises NotFound without the file, Corrupt if it is none."""
    if not path.is_file():
        raise NotFound(
            f"there is no certificate at {path}; 'edgeloop cloud init --tls' or 'edgeloop tls issue' make one"
        )
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise Corrupt(f"{path} is no certificate in PEM form: {error}. Issue it again.") from error


def days_left(path: Path, *, now: datetime | None = None) -> float:
    """Days until a certificate expires, negative after that."""
    left = read_certificate(path).not_valid_after_utc - (now or datetime.now(UTC))
    return left / timedelta(days=1)


async def follow(context: SSLContext, cert: Path | None, key: Path | None, *, every_s: float = 60.0) -> None:
    """Serve a renewed certificate without a restart: look at the file now and then, until cancelled. One that cannot be
    taken, such as one whose key is not there yet, is tried again.
    """
    if cert is None:
        return
    seen = _stamp(cert)
    while True:
        await asyncio.sleep(every_s)
        now = _stamp(cert)
        if now in (seen, None):
            continue
        try:
            files = cert, None if _holds_key(cert) else key
            # On trial first: a context that was given a certificate without its key cannot serve at all any more.
            create_default_context(Purpose.CLIENT_AUTH).load_cert_chain(*files, password="")
            context.load_cert_chain(*files, password="")
        except (OSError, SSLError) as error:
            _log.error("certificate_not_taken", path=str(cert), detail=str(error))
        else:
            _log.info("certificate_renewed", path=str(cert), days_left=round(days_left(cert)))
            seen = now


def warn_of_expiry(cert: Path) -> None:
    """Say in the log when a certificate ends soon, if it is one."""
    try:
        left = days_left(cert)
    except (Corrupt, NotFound):
        return  # whoever serves with it says so better
    if left < WARN_DAYS:
        _log.warning("certificate_ends_soon", path=str(cert), days_left=round(left, 1), fix="edgeloop tls renew")


def _authority(keys: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    if not (keys / CA_KEY).is_file():
        raise NotFound(f"there is no authority's key at {keys / CA_KEY}; name the folder of the offline keys (--keys)")
    try:
        key = serialization.load_pem_private_key((keys / CA_KEY).read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise Corrupt(f"{keys / CA_KEY} is no private key in PEM form: {error}. Restore it from a backup.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Corrupt(f"{keys / CA_KEY} holds a {type(key).__name__}; expected an elliptic curve's private key")
    return read_certificate(keys / CA_CERT), key


def _unsigned(name: x509.Name, public_key: ec.EllipticCurvePublicKey, *, days: int) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(name).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(_FROM)
    builder = builder.not_valid_after(datetime.now(UTC) + timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)


def _usage(*, is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _san(host: str) -> x509.GeneralName:
    address = _address(host)
    return x509.DNSName(host) if address is None else x509.IPAddress(address)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _holds_key(path: Path) -> bool:
    """Whether a PEM file has a private key in it, beside whatever else. False where it cannot be read."""
    try:
        return b" PRIVATE KEY-----" in path.read_bytes()
    except OSError:
        return False


def _stamp(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
