"""TLS with a private authority: a cloud and a device as two processes; what is not verified is not spoken to."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from edgeloop.contracts.api import JoinTokenRequest
from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.join import Join, parse_join_token
from edgeloop.contracts.states import Kind
from edgeloop.hub.tls import ServerFiles, authority_der, issue, make_authority
from edgeloop.transport.cloud_api import CloudApi, read_operator
from edgeloop.transport.membership import join_hub, open_client
from processes import Process
from small_cloud import PROFILE

CAMERA = "camera-1"


def _edgeloop(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "edgeloop", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Site:
    """An installation: its folder, where its cloud answers, and the owner's file."""

    folder: Path
    url: str
    operator: Path

    def api(self) -> CloudApi:
        """The owner, who has nothing but the operator file."""
        return CloudApi(read_operator(self.operator))

    def token(self) -> Join:
        """A join token that admits one."""
        with self.api() as api:
            return parse_join_token(api.make_join_token(JoinTokenRequest()).token)

    def join(self, folder: Path, join: Join, *, device_id: str = "camera-2", ca: str | None = None) -> None:
        """Enrol from this process."""
        asyncio.run(
            join_hub(folder, hub_url=self.url, join=join, device_id=device_id, kind=Kind.DEVICE, profile=PROFILE, ca=ca)
        )


def _serve(folder: Path) -> Process:
    return Process(
        *("-m", "edgeloop", "cloud", "serve", "--dir", str(folder / "cloud"), "--port", "0", "--json"),
        log=folder / "cloud.log",
    )


def _site(folder: Path, url: str) -> Site:
    made = read_operator(folder / "cloud" / "operator.json")
    operator = folder / "moved" / "operator.json"  # alone, without the cloud's folder beside it
    operator.parent.mkdir(exist_ok=True)
    operator.write_bytes(msgspec.json.encode(msgspec.structs.replace(made, url=url)))
    return Site(folder, url, operator)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    _edgeloop("cloud", "init", "--dir", f"{folder}/cloud", "--keys", f"{folder}/keys", "--tls", "cloud.test,192.0.2.7")
    cloud = _serve(folder)
    try:
        yield _site(folder, cloud.start()["url"])
    finally:
        cloud.stop()


def test_operator_file_names_the_first_host_and_carries_the_authority(site: Site) -> None:
    made = read_operator(site.folder / "cloud" / "operator.json")
    assert made.url == "https://cloud.test:8400"
    assert made.ca_pem == (site.folder / "cloud/tls/ca.pem").read_text()
    assert site.url.startswith("https://127.0.0.1:")


def test_authoritys_key_is_not_with_the_server(site: Site) -> None:
    assert (site.folder / "keys/tls-ca.key").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in (site.folder / "cloud/tls").iterdir()} == {"server.pem", "ca.pem"}
    authority = (site.folder / "keys/tls-ca.key").read_text()
    assert not any(authority in path.read_text() for path in (site.folder / "cloud/tls").iterdir())


def test_device_enrols_verified_with_the_token_alone(site: Site, tmp_path: Path) -> None:
    device = Process(
        *("-m", "edgeloop", "device", "run", "--dir", str(tmp_path / "device"), "--id", CAMERA, "--json"),
        *("--hub", site.url, "--join", str(site.token())),
        log=tmp_path / "device.log",
    )
    try:
        device.start()
        until_s = time.monotonic() + 30
        with site.api() as api:
            while not any(view.last_seen_s for view in api.devices() if view.device_id == CAMERA):
                assert time.monotonic() < until_s, "it did not sync"
                time.sleep(0.05)
    finally:
        device.stop()
    assert json.loads((tmp_path / "device/membership.json").read_bytes())["ca"] == "ca.pem"


def test_hub_of_another_authority_is_refused_before_anything_is_sent(site: Site, tmp_path: Path) -> None:
    make_authority(tmp_path / "other")
    issue(tmp_path / "other", ServerFiles(tmp_path / "tls"), ("cloud.test",))
    good = site.token()
    wrong = msgspec.structs.replace(good, ca=authority_der(ServerFiles(tmp_path / "tls")))
    with pytest.raises(Refused, match="does not prove that it is the right server"):
        site.join(tmp_path / "device", wrong)
    site.join(tmp_path / "device", good)  # the token was not used up


def test_private_hub_is_refused_without_its_authority(site: Site, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not prove"):
        site.join(tmp_path, msgspec.structs.replace(site.token(), ca=b""))
    operator = msgspec.structs.replace(read_operator(site.operator), ca_pem=None)
    with CloudApi(operator) as api, pytest.raises(Refused, match="does not prove"):
        api.status()


def test_authoritys_file_may_be_named_and_is_copied(site: Site, tmp_path: Path) -> None:
    named = tmp_path / "authority.pem"
    named.write_bytes((site.folder / "cloud/tls/ca.pem").read_bytes())
    site.join(tmp_path / "device", msgspec.structs.replace(site.token(), ca=b""), device_id="camera-3", ca=str(named))
    named.unlink()
    assert (tmp_path / "device/ca.pem").is_file()


def test_expired_certificate_is_refused_and_a_renewed_one_taken(site: Site, tmp_path: Path) -> None:
    _edgeloop("cloud", "init", "--dir", f"{tmp_path}/cloud", "--keys", f"{tmp_path}/keys", "--tls", "cloud.test")
    files = ServerFiles(tmp_path / "cloud/tls")
    issue(tmp_path / "keys", files, ("cloud.test",), days=-1)
    cloud = _serve(tmp_path)
    try:
        with _site(tmp_path, cloud.start()["url"]).api() as api, pytest.raises(Refused, match="expired"):
            api.status()
        assert "certificate_ends_soon" in (tmp_path / "cloud.log").read_text()
        cloud.stop()
        _edgeloop("tls", "renew", "--dir", f"{tmp_path}/cloud", "--keys", f"{tmp_path}/keys")
        with _site(tmp_path, cloud.start()["url"]).api() as api:
            assert api.status().devices == 0
    finally:
        cloud.stop()


@pytest.mark.parametrize("url", ["http://192.0.2.7:8400", "http://cloud.test"])
def test_other_machines_are_not_spoken_to_in_the_clear(site: Site, url: str) -> None:
    with pytest.raises(InvalidInput, match="https://"):
        open_client(url)
    with pytest.raises(InvalidInput, match="https://"):
        CloudApi(msgspec.structs.replace(read_operator(site.operator), url=url))
