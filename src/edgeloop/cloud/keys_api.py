"""The REST API's routes for keys: who signs what, and changes that were signed elsewhere.

Neighbours: `api` mounts them, `trust` decides.
"""

import asyncio
import time

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from edgeloop.cloud import trust
from edgeloop.cloud.door import OWNER, VIEWER, AnyRequest, note
from edgeloop.cloud.hub import Stores
from edgeloop.contracts.api import KeyChange, KeysView, OnlineKey, OnlineKeyRequest
from edgeloop.contracts.codec import require_known_schema

Kept = NamedDependency[Stores]


class KeyRoutes(Controller):
    """Who signs what, and until when."""

    path = "/keys"
    tags = ["keys"]

    @get("/", security=VIEWER)
    async def keys(self, stores: Kept) -> KeysView:
        """Roles, keys, thresholds and expiries of both repositories."""
        return await trust.read_view(stores, now_s=time.time())

    @post("/", status_code=200, security=OWNER)
    async def change(self, stores: Kept, request: AnyRequest, data: JSONBody[KeyChange]) -> KeysView:
        """Bring in roots and targets metadata that were signed where the offline keys are."""
        known = require_known_schema(data, "the request (KeyChange)")
        given = {"images root": known.images_root, "director root": known.director_root, "targets": known.targets}
        note(request, ", ".join(name for name, metadata in given.items() if metadata is not None))
        return await trust.change_keys(stores, known, now_s=time.time())

    @post("/online", security=OWNER)
    async def make_online_key(self, stores: Kept, request: AnyRequest, data: JSONBody[OnlineKeyRequest]) -> OnlineKey:
        """Make a key of the server's own; it counts once a root names it."""
        made = await asyncio.to_thread(trust.make_online_key, stores, data.repository)
        note(request, f"{data.repository} {made.key_id[:12]}")
        return made
