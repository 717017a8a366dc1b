import asyncio
import stat
import time
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeloop.bundle.durable import write_durable
from edgeloop.cloud.store.tables import devices
from edgeloop.contracts.codec import to_pretty_json
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, NotFound, Unavailable
from edgeloop.contracts.join import Join
from edgeloop.contracts.messages import Profile
from edgeloop.contracts.proof import MAX_AGE_S
from edgeloop.contracts.states import Kind
from edgeloop.transport.identity import Identity, load_or_make_key
from edgeloop.transport.membership import Membership, ask_to_join, join_hub, open_client, open_identity, read_membership
from edgeloop.transport.uplink import Uplink
from house import Wire
from small_cloud import SmallCloud, key_of

MEMBER = Membership(
    device_id="camera-1",
    kind=Kind.DEVICE,
    hub_url="http://127.0.0.1:8400",
    images_root=b"images \x00\xff",
    director_root=b"director",
)
PROFILE = Profile(architecture="x86_64", system="Linux", cpu_count=1, memory_bytes=1, engines={}, edgeloop="0.1.0")
JOIN = Join(secret="s" * 43, fingerprint="0" * 32)


@pytest.mark.parametrize(
    "url", ["http://10.0.0.5:8400", "http://cloud.example.org", "http://0.0.0.0:8400", "http://[fe80::1]:8400"]
)
def test_address_in_the_clear_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"in the clear; use https://"):
        open_client(url)


@pytest.mark.parametrize("url", ["http://localhost.example.org", "http://127.0.0.1.example.org", "http://a@10.0.0.5"])
def test_address_that_looks_like_loopback_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="in the clear"):
        open_client(url)


async def _open(url: str) -> str:
    client = open_client(url)
    base = str(client.base_url)
    await client.aclose()
    return base


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8400", "http://localhost:8400", "http://[::1]:8400", "https://cloud.example.org"]
)
def test_loopback_and_tls_are_taken(url: str) -> None:
    assert asyncio.run(_open(url)).rstrip("/") == url


@pytest.mark.parametrize("url", ["", "cloud.example.org", "ftp://cloud", "http://", "https://a:notaport", "//x"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        open_client(url)


def test_missing_certificate_authority_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"certificate authority .*ca\.pem"):
        open_client("https://cloud.example.org", ca=str(tmp_path / "ca.pem"))


def test_certificate_authority_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(InvalidInput, match=r"certificate authority .*ca\.pem"):
        open_client("https://cloud.example.org", ca=str(tmp_path / "ca.pem"))


def test_folder_that_is_not_enrolled_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"not enrolled yet; pass --hub URL and --join TOKEN"):
        read_membership(tmp_path)


def test_membership_comes_back(tmp_path: Path) -> None:
    write_durable(tmp_path / "membership.json", to_pretty_json(MEMBER))
    assert read_membership(tmp_path) == MEMBER


def test_damaged_membership_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "membership.json").write_bytes(to_pretty_json(MEMBER)[:-20])
    with pytest.raises(Corrupt, match=r"membership\.json"):
        read_membership(tmp_path)


def test_identity_is_the_folders_own_key(tmp_path: Path) -> None:
    key = load_or_make_key(tmp_path / "device.pem")
    assert open_identity(tmp_path, "camera-1").public_key == key.public_key().public_bytes_raw()


def test_lost_key_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(EdgeloopError):
        open_identity(tmp_path, "camera-1")


def _join(folder: Path, *, url: str = "http://127.0.0.1:9", device_id: str = "camera-1") -> None:
    asyncio.run(join_hub(folder, hub_url=url, join=JOIN, device_id=device_id, kind=Kind.DEVICE, profile=PROFILE))


def test_failed_enrolment_leaves_no_membership(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        _join(tmp_path)  # nothing listens on the discard port
    assert not (tmp_path / "membership.json").exists()


def test_key_made_for_a_failed_enrolment_is_used_again(tmp_path: Path) -> None:
    keys = []
    for _ in range(2):
        with pytest.raises(Unavailable):
            _join(tmp_path)
        keys.append((tmp_path / "device.pem").read_bytes())
    assert keys[0] == keys[1]


def test_key_is_for_its_owner_only(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        _join(tmp_path)
    assert stat.S_IMODE((tmp_path / "device.pem").stat().st_mode) == 0o600


@pytest.mark.parametrize("device_id", ["", "Camera", "a/b", "a" * 64, "-a"])
def test_device_id_that_is_no_name_is_refused_before_a_key_is_made(tmp_path: Path, device_id: str) -> None:
    with pytest.raises(InvalidInput, match="device id"):
        _join(tmp_path, device_id=device_id)
    assert list(tmp_path.iterdir()) == []


def test_two_devices_have_two_keys(tmp_path: Path) -> None:
    first, second = (load_or_make_key(tmp_path / name / "device.pem") for name in ("a", "b"))
    assert isinstance(first, Ed25519PrivateKey)
    assert first.private_bytes_raw() != second.private_bytes_raw()


@pytest.mark.parametrize("device_s", [0.0, 3e9], ids=["1970", "2065"])
def test_device_whose_clock_is_wrong_signs_its_enrolment_by_the_hubs_time(cloud: SmallCloud, device_s: float) -> None:
    """The time is in what the device signs, and not in the request around it alone."""

    async def enrol() -> None:
        async with httpx.AsyncClient(transport=Wire(cloud.app), base_url="http://hub.test") as client:
            uplink = Uplink(client, Identity("camera-1", key_of("camera-1")), clock=lambda: device_s)
            join = Join(cloud.join_secret(), cloud.roots.fingerprint())
            await ask_to_join(uplink, join, kind=Kind.DEVICE, profile=PROFILE)

    asyncio.run(enrol())
    asked_at_ms = cloud.database.read_now(lambda c: c.execute(sa.select(devices.c.asked_at_ms)).scalar())
    assert abs(asked_at_ms / 1000 - time.time()) < MAX_AGE_S
