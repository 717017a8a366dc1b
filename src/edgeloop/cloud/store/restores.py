"""What a restored cloud must know: that devices may have seen more than it, and what it has to sign above.

Neighbours: `cloud.backup.restore` notes it, `fleet` and `registry` go on from it. Rule kept here: the floor only grows.
"""

import sqlalchemy as sa

from edgeloop.cloud.store.tables import assignments, restores, signed_targets
from edgeloop.transport.signing import version_beyond

FLOOR = sa.func.coalesce(sa.select(sa.func.max(restores.c.generation_floor)).scalar_subquery(), 0)
"""In SQL: what generations and the versions of what is signed here go on above; 0 in a cloud that never was lost."""


def note_restore(connection: sa.Connection, *, made_at_s: float, now_s: float, is_whole: bool = True) -> None:
    """A backup of then is the cloud from now on; once `note_whole` is called, if it is not whole yet."""
    newest = sa.func.coalesce(sa.select(sa.func.max(assignments.c.generation)).scalar_subquery(), 0)
    given, floor = connection.execute(sa.select(newest, FLOOR)).one()
    beyond = version_beyond(max(given, floor), now_s=now_s)
    row = {"restored_at_s": now_s, "made_at_s": made_at_s, "generation_floor": beyond, "is_whole": is_whole}
    connection.execute(restores.insert().values(**row))


def note_whole(connection: sa.Connection) -> None:
    """What was restored here is in service: its folder is there, too."""
    connection.execute(restores.update().where(restores.c.is_whole.is_(False)).values(is_whole=True))


def is_unfinished(connection: sa.Connection) -> bool:
    """Whether what is here was left by a restore that was cut short, and nobody was ever served from it."""
    return bool(connection.execute(sa.select(sa.exists().where(restores.c.is_whole.is_(False)))).scalar())


def behind_since_s(connection: sa.Connection) -> float | None:
    """When the cloud was restored, if the list of what exists was not lifted beyond what devices may have seen since.

    Seconds since 1970. Versions count up by one but where the list was lifted.
    """
    restored_at_s = connection.execute(sa.select(sa.func.max(restores.c.restored_at_s))).scalar()
    if restored_at_s is None:
        return None
    version, published_at_s = signed_targets.c.version, signed_targets.c.published_at_s
    newest, count = connection.execute(
        sa.select(sa.func.max(version), sa.func.count()).where(published_at_s > restored_at_s)
    ).one()
    kept = connection.execute(sa.select(sa.func.max(version)).where(published_at_s <= restored_at_s)).scalar() or 0
    return restored_at_s if not count or newest == kept + count else None
