import stat
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeloop.contracts.errors import Corrupt
from edgeloop.contracts.proof import parse_claim
from edgeloop.transport.identity import Identity, load_or_make_key, private_pem, read_key


def test_key_is_made_where_there_is_none(tmp_path: Path) -> None:
    load_or_make_key(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").is_file()


def test_key_is_the_same_the_next_time(tmp_path: Path) -> None:
    first, second = (load_or_make_key(tmp_path / "key.pem") for _ in range(2))
    assert first.private_bytes_raw() == second.private_bytes_raw()


def test_two_devices_do_not_share_a_key(tmp_path: Path) -> None:
    first, second = (load_or_make_key(tmp_path / name) for name in ("a", "b"))
    assert first.private_bytes_raw() != second.private_bytes_raw()


def test_key_file_is_for_its_owner_only(tmp_path: Path) -> None:
    load_or_make_key(tmp_path / "key.pem")
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600


def test_written_key_is_read_back(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    (tmp_path / "key.pem").write_bytes(private_pem(key))
    assert read_key(tmp_path / "key.pem").private_bytes_raw() == key.private_bytes_raw()


@pytest.mark.parametrize("data", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_file_that_holds_no_key_is_corrupt(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(data)
    with pytest.raises(Corrupt, match=r"key\.pem"):
        load_or_make_key(tmp_path / "key.pem")


def test_damaged_key_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(b"damaged")
    with pytest.raises(Corrupt):
        load_or_make_key(tmp_path / "key.pem")
    assert (tmp_path / "key.pem").read_bytes() == b"damaged"


def test_key_of_another_kind_is_corrupt(tmp_path: Path) -> None:
    pem = generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(pem)
    with pytest.raises(Corrupt, match="expected an Ed25519"):
        read_key(tmp_path / "key.pem")


def test_encrypted_key_is_corrupt(tmp_path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    (tmp_path / "key.pem").write_bytes(pem)
    with pytest.raises(Corrupt, match=r"key\.pem"):
        read_key(tmp_path / "key.pem")


def test_public_key_is_the_32_raw_bytes() -> None:
    key = Ed25519PrivateKey.generate()
    assert Identity("camera-1", key).public_key == key.public_key().public_bytes_raw()


def _signed() -> httpx.Request:
    request = httpx.Request("POST", "http://hub.test/v1/send", content=b"body")
    Identity("camera-1", Ed25519PrivateKey.from_private_bytes(b"k" * 32)).sign(request, created_s=1000)
    return request


def test_signed_request_names_its_device_and_time() -> None:
    headers = _signed().headers
    claim = parse_claim(headers["signature-input"], headers["signature"])
    assert (claim.device_id, claim.created_s) == ("camera-1", 1000)


def test_no_two_requests_share_a_nonce() -> None:
    inputs = {_signed().headers["signature-input"] for _ in range(100)}
    assert len(inputs) == 100


def test_signing_leaves_the_body_as_it_was() -> None:
    assert _signed().content == b"body"


def test_signing_again_replaces_the_proof() -> None:
    request = _signed()
    Identity("camera-2", Ed25519PrivateKey.from_private_bytes(b"q" * 32)).sign(request, created_s=2000)
    assert [len(request.headers.get_list(name)) for name in ("signature-input", "signature", "content-digest")] == [
        1,
        1,
        1,
    ]
