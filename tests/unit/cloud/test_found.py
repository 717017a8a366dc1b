import stat
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from tuf.api.metadata import Metadata

from edgeloop.bundle.durable import write_durable
from edgeloop.cloud.app import open_stores
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import Founded, found
from edgeloop.cloud.store import access, registry, roots
from edgeloop.cloud.store.database import Database
from edgeloop.cloud.store.tables import api_tokens, signed_roots
from edgeloop.contracts.access import Role
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound, Refused
from edgeloop.transport.cloud_api import read_operator
from edgeloop.transport.identity import private_pem, read_key


@pytest.fixture
def config(tmp_path: Path) -> CloudConfig:
    return CloudConfig(folder=tmp_path / "cloud")


@pytest.fixture
def founded(config: CloudConfig, tmp_path: Path) -> Founded:
    return found(config, keys=tmp_path / "keys", url="http://cloud.test")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_private_key_is_readable_by_its_owner_alone(founded: Founded) -> None:
    keys = [*founded.keys.rglob("*.pem"), *founded.cloud.rglob("*.pem")]
    assert {path.name: _mode(path) for path in keys} == {
        "root.pem": 0o600,
        "targets.pem": 0o600,
        "images.pem": 0o600,
        "director.pem": 0o600,
    }


def test_operator_file_is_readable_by_its_owner_alone(founded: Founded) -> None:
    assert _mode(founded.operator) == 0o600


@pytest.mark.parametrize("name", ["root.pem", "targets.pem"])
def test_servers_folder_does_not_hold_the_offline_keys(founded: Founded, name: str) -> None:
    key = read_key(founded.keys / name)
    secrets = (key.private_bytes_raw(), key.private_bytes_raw().hex().encode(), private_pem(key).splitlines()[1])
    holders = [
        path for path in founded.cloud.rglob("*") if path.is_file() and any(one in path.read_bytes() for one in secrets)
    ]
    assert holders == []


def test_four_keys_are_four_keys(founded: Founded) -> None:
    paths = [*founded.keys.rglob("*.pem"), *founded.cloud.rglob("*.pem")]
    assert len({read_key(path).private_bytes_raw() for path in paths}) == 4


def test_token_itself_is_not_in_the_servers_database(founded: Founded) -> None:
    token = read_operator(founded.operator).token.encode()
    assert not any(token in path.read_bytes() for path in founded.cloud.glob("cloud.db*"))


def test_operators_token_opens_the_api(founded: Founded, config: CloudConfig) -> None:
    database = Database(config.sqlalchemy_url)
    token = read_operator(founded.operator).token
    caller = database.read_now(lambda c: access.find_caller(c, token, now_s=time.time()))
    for other in (token + "x", ""):
        with pytest.raises(Refused, match="operator file"):
            database.read_now(lambda c, other=other: access.find_caller(c, other, now_s=time.time()))
    database.close()
    assert (caller.name, caller.role) == ("operator", Role.OWNER)


def test_operator_file_names_the_targets_key(founded: Founded) -> None:
    assert read_operator(founded.operator).targets_key == str(founded.keys / "targets.pem")


def test_new_cloud_has_published_nothing(founded: Founded, config: CloudConfig) -> None:
    stores = open_stores(config)
    version = stores.database.read_now(registry.newest_targets).version
    bundles = stores.database.read_now(registry.list_bundles)
    stores.database.close()
    assert (version, bundles) == (1, [])


def test_second_founding_in_the_same_folder_is_turned_down(
    founded: Founded, config: CloudConfig, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="already"):
        found(config, keys=tmp_path / "other-keys", url="http://cloud.test")


def test_turned_down_founding_changes_nothing(founded: Founded, config: CloudConfig) -> None:
    before = {path: path.read_bytes() for path in founded.cloud.parent.rglob("*") if path.is_file()}
    with pytest.raises(InvalidInput):
        found(config, keys=founded.keys, url="http://other.test")
    assert {path: path.read_bytes() for path in founded.cloud.parent.rglob("*") if path.is_file()} == before


def test_founding_that_was_cut_short_is_answered_with_an_edgeloop_error(founded: Founded, config: CloudConfig) -> None:
    founded.operator.unlink()  # as if the process had been killed just before it wrote the operator file
    with pytest.raises(EdgeloopError, match="operator file is missing"):
        found(config, keys=founded.keys, url="http://cloud.test")


def test_two_clouds_have_different_roots(founded: Founded, config: CloudConfig, tmp_path: Path) -> None:
    other = CloudConfig(folder=tmp_path / "second")
    found(other, keys=tmp_path / "second-keys", url="http://cloud.test")
    assert set(_roots(config).newest()).isdisjoint(_roots(other).newest())


def test_roots_name_their_repositories(founded: Founded, config: CloudConfig) -> None:
    named = [Metadata.from_bytes(one).signed.unrecognized_fields["repository"] for one in _roots(config).newest()]
    assert named == ["images", "director"]


def test_cloud_whose_roots_are_files_is_opened_and_has_them_as_rows(founded: Founded, config: CloudConfig) -> None:
    before = _roots(config)
    database = Database(config.sqlalchemy_url)
    database.write_now(lambda c: c.execute(signed_roots.delete()))
    database.close()
    write_durable(config.roots / "images.root.json", before.images[0].metadata)
    write_durable(config.roots / "director.root.json", before.director[0].metadata)
    assert _roots(config).newest() == before.newest()


def test_cloud_that_lost_its_roots_says_what_to_restore(founded: Founded, config: CloudConfig) -> None:
    database = Database(config.sqlalchemy_url)
    database.write_now(lambda c: c.execute(signed_roots.delete()))
    database.close()
    with pytest.raises(NotFound, match="restore"):
        open_stores(config)


def _roots(config: CloudConfig) -> roots.Roots:
    stores = open_stores(config)
    found = stores.database.read_now(roots.read_roots)
    stores.database.close()
    return found


def test_opening_where_no_cloud_was_founded_is_not_found(config: CloudConfig) -> None:
    with pytest.raises(NotFound, match="cloud init"):
        open_stores(config)


def test_one_token_is_made(founded: Founded, config: CloudConfig) -> None:
    database = Database(config.sqlalchemy_url)
    count = database.read_now(lambda c: c.execute(sa.select(sa.func.count()).select_from(api_tokens)).scalar())
    database.close()
    assert count == 1
