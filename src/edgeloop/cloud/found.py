"""Found a cloud: keys, roots of trust, database, the first operator.

Two folders come out: the cloud's own, which the server reads, and the keys', which it never does: root and
targets key belong on a stick or a build machine, so that a stolen server can invent no model.
"""

import secrets
import time
from pathlib import Path

import msgspec
import sqlalchemy as sa

from edgeloop.bundle.durable import storage_error, write_durable
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.repository import make_root, make_targets
from edgeloop.cloud.store.database import Database
from edgeloop.cloud.store.tables import api_tokens, signed_targets
from edgeloop.contracts.codec import to_pretty_json
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.join import secret_hash
from edgeloop.transport.cloud_api import Operator
from edgeloop.transport.identity import load_or_make_key

ROOT_KEY = "root.pem"
TARGETS_KEY = "targets.pem"


class Founded(msgspec.Struct, frozen=True):
    """Where things are."""

    cloud: Path
    keys: Path
    operator: Path


def found(config: CloudConfig, *, keys: Path, url: str) -> Founded:
    """Make a new cloud in config.folder and its offline keys in `keys`.

    url: where it will be reached; it goes into the operator's file. Raises InvalidInput if there is one already.
    """
    if config.roots.exists():
        raise InvalidInput(f"there is a cloud in {config.folder} already; choose another folder, or serve that one")
    for folder in (config.folder, keys):
        _make_folder(folder)
    now_s = time.time()
    root_key = load_or_make_key(keys / ROOT_KEY)
    targets_key = load_or_make_key(keys / TARGETS_KEY)
    images_key = load_or_make_key(config.online_keys / "images.pem")
    director_key = load_or_make_key(config.online_keys / "director.pem")
    online = {"snapshot": images_key, "timestamp": images_key}
    images_root = make_root(root_key=root_key, keys={"targets": targets_key, **online}, now_s=now_s)
    director_roles = {"targets": director_key, "snapshot": director_key, "timestamp": director_key}
    director_root = make_root(root_key=root_key, keys=director_roles, now_s=now_s)
    first_targets = make_targets({}, version=1, key=targets_key, now_s=now_s)
    token = secrets.token_urlsafe(32)
    _fill(config, first_targets, token, now_s)
    write_durable(config.roots / "director.root.json", director_root)
    write_durable(config.roots / "images.root.json", images_root)
    operator = config.folder / "operator.json"
    entry = Operator(url=url, token=token, targets_key=str((keys / TARGETS_KEY).resolve()))
    write_durable(operator, to_pretty_json(entry), mode=0o600)
    return Founded(config.folder, keys, operator)


def _make_folder(folder: Path) -> None:
    """So that nothing is begun where it cannot be ended."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder, size_bytes=0) from error


def _fill(config: CloudConfig, targets: bytes, token: str, now_s: float) -> None:
    database = Database(config.sqlalchemy_url)

    def first_rows(connection: sa.Connection) -> None:
        if connection.execute(sa.select(signed_targets.c.version)).first() is not None:
            raise InvalidInput(
                f"the database of {config.folder} belongs to an earlier cloud whose roots are missing; bring the "
                "roots back, or remove it if that cloud was never used"
            )
        connection.execute(signed_targets.insert().values(version=1, metadata=targets, published_at_s=now_s))
        connection.execute(
            api_tokens.insert().values(secret_hash=secret_hash(token), name="operator", created_at_s=now_s)
        )

    try:
        database.write_now(first_rows)
    finally:
        database.close()
