"""The schema's versions: where a database stands, and the steps up and down.

Rules kept here: a database goes from one version to another in one transaction or not at all; of replicas that start
together one migrates and the others wait; a version that this edgeloop does not know is left alone.
The steps themselves are in `cloud/migrations`. Alembic is imported where steps are taken: most starts take none, and
it is a tenth of what a cloud imports.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from edgeloop.cloud.store.engine import is_postgresql, unavailable
from edgeloop.cloud.store.locks import MIGRATING, SERVING, take_for_transaction, try_for_transaction
from edgeloop.cloud.store.tables import signed_roots
from edgeloop.contracts.errors import Corrupt, InvalidInput, Refused

if TYPE_CHECKING:
    from alembic.config import Config

_MIGRATIONS = Path(__file__).parent.parent / "migrations"
_STAMP = sa.table("alembic_version", sa.column("version_num"))
BASE = "base"
"""Before the first version: no tables."""

_ROOTS_SINCE = "0002"


@cache
def known_versions() -> tuple[str, ...]:
    """The versions of the schema that this edgeloop knows, oldest first: each has a file, vNUMBER_WHAT.py."""
    return tuple(sorted(path.stem[1:].partition("_")[0] for path in (_MIGRATIONS / "versions").glob("v*_*.py")))


def version_of(connection: sa.Connection) -> str:
    """Where a database stands; BASE for an empty one. Raises InvalidInput if it is newer than this edgeloop."""
    is_stamped = sa.inspect(connection).has_table(_STAMP.name)
    version = (connection.execute(sa.select(_STAMP.c.version_num)).scalar() if is_stamped else None) or BASE
    if version not in (BASE, *known_versions()):
        raise InvalidInput(
            f"the cloud's database has schema {version}, which this edgeloop does not know (it knows up to "
            f"{known_versions()[-1]}): a newer edgeloop migrated it. Update edgeloop here; or let the newer one go "
            "back with 'edgeloop cloud migrate --to', or restore a backup from before."
        )
    return version


def migrate(engine: sa.Engine, *, to: str | None = None, lose_roots: bool = False) -> tuple[str, str]:
    """Take the database to a version, the newest unless told; returns (from, to).

    lose_roots: also to where there is no place for roots of trust. Raises InvalidInput if either version is not known
    here; Refused if it is to go back while replicas serve, or would lose roots; Unavailable or Corrupt if the database
    cannot be opened.
    """
    wanted = known_versions()[-1] if to is None else to
    if wanted not in (BASE, *known_versions()):
        raise InvalidInput(f"there is no schema {wanted!r}; known are {BASE}, {', '.join(known_versions())}")
    try:
        with engine.begin() as connection:
            take_for_transaction(connection, MIGRATING)
            before = version_of(connection)
            if not lose_roots:
                _require_keeps_roots(connection, before, wanted)
            if wanted != before:
                _go(connection, before, wanted)
    except sa.exc.OperationalError as error:
        raise unavailable(error) from error
    except sa.exc.DatabaseError as error:
        raise Corrupt(f"the cloud's database cannot be opened: {error.orig}. Restore it from a backup.") from error
    return before, wanted


def require_newest(engine: sa.Engine) -> None:
    """Raise InvalidInput unless the database stands at the newest version, without changing it."""
    try:
        with engine.connect() as connection:
            version = version_of(connection)
    except sa.exc.OperationalError as error:
        raise unavailable(error) from error
    except sa.exc.DatabaseError as error:
        raise Corrupt(f"the cloud's database cannot be opened: {error.orig}. Restore it from a backup.") from error
    if version != known_versions()[-1]:
        raise InvalidInput(
            f"the cloud's database has schema {version}, this edgeloop needs {known_versions()[-1]}: run 'edgeloop "
            "cloud migrate' first"
        )


def _require_keeps_roots(connection: sa.Connection, before: str, wanted: str) -> None:
    """Raise Refused if roots of trust would be dropped: with them goes whatever devices believe this cloud by."""
    order = (BASE, *known_versions())
    if not order.index(wanted) < order.index(_ROOTS_SINCE) <= order.index(before):
        return
    count = connection.execute(sa.select(sa.func.count()).select_from(signed_roots)).scalar()
    if count:
        raise Refused(
            f"schema {wanted} has no place for roots of trust, and {count} are in this database: without them no "
            "device takes anything from this cloud any more, unless it was founded before they were rows and no key "
            "was ever changed. Nothing was done. Make a backup ('edgeloop cloud backup'), and give --lose-roots if "
            "this is what you want."
        )


def _go(connection: sa.Connection, before: str, wanted: str) -> None:
    from alembic import command

    order = (BASE, *known_versions())
    config = _config(connection)
    if order.index(wanted) > order.index(before):
        command.upgrade(config, wanted)
        return
    if is_postgresql(connection) and not try_for_transaction(connection, SERVING):
        raise Refused("a replica serves this database; end all of them before the schema goes back")
    command.downgrade(config, wanted)


def _config(connection: sa.Connection) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
