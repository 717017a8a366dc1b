"""All signed metadata that an asker does not hold, in one answer, and with an assignment the small files that it names.

It is made in one look at the database, so what a device is told to run is among what is told to exist. Neighbours:
`repository` makes each file, `hub` answers for each by itself.
"""

import time
from collections.abc import Callable, Iterable

import msgspec
import sqlalchemy as sa

from edgeloop.cloud.online import OnlineKeys
from edgeloop.cloud.repository import Given, newer_director, newer_images
from edgeloop.cloud.store import fleet, registry, roots
from edgeloop.cloud.store.database import Database
from edgeloop.contracts.messages import Assignment, TrustReply, TrustRequest
from edgeloop.hub.along import SmallFiles
from edgeloop.hub.together import IMAGES, Together, device_of


class SignedWords:
    """Answers the `trust` verb out of the cloud's stores. small: of bundles. clock: seconds since 1970."""

    def __init__(
        self, database: Database, online: OnlineKeys, small: SmallFiles, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._online = online
        self._small = small
        self._clock = clock

    async def newer(self, sender: str, request: TrustRequest) -> TrustReply:
        """What the sender asks for, of itself and of devices that it carries for; nothing of others or revoked ones.

        Raises Unavailable if this server lacks a key.
        """

        def operation(connection: sa.Connection) -> tuple[Together, dict[str, Assignment]]:
            return self._together(connection, sender, request)

        together, assigned = await self._database.read(operation)
        return together.reply(await self._small.of(assigned.values(), most_bytes=request.along_bytes))

    def _together(
        self, connection: sa.Connection, sender: str, request: TrustRequest
    ) -> tuple[Together, dict[str, Assignment]]:
        together, assigned = Together(), dict[str, Assignment]()
        heard = fleet.in_good_standing(connection, sender)
        known, find_key, now_s = roots.read_roots(connection), self._online.find, self._clock()
        given_from = len(known.director)
        for place, held in request.held.items():
            device_id = device_of(place)
            if place == IMAGES:
                targets = registry.newest_targets(connection)
                files = newer_images(held, roots=known.images, targets=targets, find_key=find_key, now_s=now_s)
            elif device_id in heard:
                given = _given(connection, device_id)
                if held.root >= given_from:  # they are all devices' and came with the first
                    held = msgspec.structs.replace(held, root=len(known.director))
                files = newer_director(held, roots=known.director, given=given, find_key=find_key, now_s=now_s)
                if given.assignment is not None and _brings_targets(files):
                    assigned[given.assignment.manifest_sha256] = given.assignment
            else:
                continue
            if together.add(place, files) and place != IMAGES:
                given_from = min(given_from, held.root)
        return together, assigned


def _given(connection: sa.Connection, device_id: str) -> Given:
    told = fleet.assigned(connection, device_id)
    return Given(device_id, told.generation, told.assignment, told.assigned_at_s, told.floor)


def _brings_targets(files: Iterable[str]) -> bool:
    return any(name.endswith(".targets.json") for name in files)
