"""Found a cloud: keys, roots of trust, database, the first operator.

Two folders come out: the cloud's own, which the server reads, and the keys', which it never does: root and
targets key belong on a stick or a build machine, so that a stolen server can invent no model.
"""

import secrets
import time
from pathlib import Path

import msgspec
import sqlalchemy as sa

from edgeloop.bundle.durable import translated, write_durable
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.store.database import Database
from edgeloop.cloud.store.roots import add_root
from edgeloop.cloud.store.tables import api_tokens, signed_roots, signed_targets
from edgeloop.contracts.codec import to_pretty_json
from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.join import secret_hash
from edgeloop.hub.tls import ServerFiles, issue, make_authority
from edgeloop.transport.cloud_api import Operator
from edgeloop.transport.identity import load_or_make_key
from edgeloop.transport.signing import DIRECTOR, IMAGES, make_root, make_targets

ROOT_KEY = "root.pem"
TARGETS_KEY = "targets.pem"


class Founded(msgspec.Struct, frozen=True):
    """Where things are."""

    cloud: Path
    keys: Path
    operator: Path


def found(config: CloudConfig, *, keys: Path, url: str, hosts: tuple[str, ...] = ()) -> Founded:
    """Make a new cloud in config.folder and its offline keys in `keys`.

    url: where it will be reached; it goes into the operator's file. hosts: names for which it gets a certificate of a
    new private authority, whose key goes to `keys`; none for none. Raises InvalidInput if there is one already.
    """
    operator = config.folder / "operator.json"
    if config.roots.exists() or operator.exists():
        raise InvalidInput(f"there is a cloud in {config.folder} already; choose another folder, or serve that one")
    for folder in (config.folder, keys):
        _make_folder(folder)
    now_s = time.time()
    root_key = load_or_make_key(keys / ROOT_KEY)
    targets_key = load_or_make_key(keys / TARGETS_KEY)
    images_key = load_or_make_key(config.online_keys / "images.pem")
    director_key = load_or_make_key(config.online_keys / "director.pem")
    images_roles = {"targets": targets_key, "snapshot": images_key, "timestamp": images_key}
    director_roles = {"targets": director_key, "snapshot": director_key, "timestamp": director_key}
    roots = {
        IMAGES: make_root(IMAGES, root_key=root_key, keys=images_roles, now_s=now_s),
        DIRECTOR: make_root(DIRECTOR, root_key=root_key, keys=director_roles, now_s=now_s),
    }
    first_targets = make_targets({}, version=1, keys=[targets_key], now_s=now_s)
    token = secrets.token_urlsafe(32)
    authority = _certify(config, keys, hosts)
    entry = Operator(url=url, token=token, targets_key=str((keys / TARGETS_KEY).resolve()), ca_pem=authority)
    _fill(config, roots, first_targets, token, now_s)
    write_durable(operator, to_pretty_json(entry), mode=0o600)
    return Founded(config.folder, keys, operator)


def _certify(config: CloudConfig, keys: Path, hosts: tuple[str, ...]) -> str | None:
    """The authority's certificate, if there is to be one."""
    if not hosts:
        return None
    make_authority(keys)
    files = ServerFiles(config.tls)
    issue(keys, files, hosts)
    return files.ca.read_text(encoding="ascii")


def require_founded(config: CloudConfig) -> None:
    """Raise NotFound unless a cloud was founded in this folder."""
    if not config.online_keys.is_dir():
        raise NotFound(
            f"there is no cloud in {config.folder}: it has no keys in {config.online_keys}. Make one with "
            "'edgeloop cloud init'."
        )


def take_in_roots(config: CloudConfig, database: Database) -> None:
    """Make rows of the roots of a cloud that was founded while they were files. Raises NotFound if there are none."""

    def take(connection: sa.Connection) -> None:
        if connection.execute(sa.select(signed_roots.c.version)).first() is None:
            founded_at = sa.select(signed_targets.c.published_at_s).order_by(signed_targets.c.version)
            for repository in (IMAGES, DIRECTOR):
                root = _read_root(config.roots / f"{repository}.root.json")
                add_root(connection, repository, 1, root, now_s=connection.execute(founded_at).scalar() or 0.0)

    database.write_now(take)


def _read_root(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(
            f"the cloud's database knows no roots of trust, and {path} is missing: restore one of them from a backup"
        ) from error


def _make_folder(folder: Path) -> None:
    """So that nothing is begun where it cannot be ended."""
    with translated(folder, doing="write"):
        folder.mkdir(parents=True, exist_ok=True)


def _fill(config: CloudConfig, roots: dict[str, bytes], targets: bytes, token: str, now_s: float) -> None:
    database = Database(config.sqlalchemy_url)

    def first_rows(connection: sa.Connection) -> None:
        if connection.execute(sa.select(signed_targets.c.version)).first() is not None:
            raise InvalidInput(
                f"the database of {config.folder} belongs to an earlier cloud whose operator file is missing; bring "
                "that file back, or remove the folder if that cloud was never used"
            )
        for repository, root in roots.items():
            add_root(connection, repository, 1, root, now_s=now_s)
        connection.execute(signed_targets.insert().values(version=1, metadata=targets, published_at_s=now_s))
        connection.execute(
            api_tokens.insert().values(secret_hash=secret_hash(token), name="operator", created_at_s=now_s)
        )

    try:
        database.write_now(first_rows)
    finally:
        database.close()
