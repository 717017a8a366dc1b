"""The hub's port: what the cloud and the node each implement, and the routes call.

Neighbours: `routes` turns HTTP into these calls; `cloud.hub` and `node.hub` answer them; `transport.uplink` is
the other end of the wire.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from edgeloop.contracts.messages import (
    EnrolReply,
    EnrolRequest,
    InferReply,
    InferRequest,
    SendReply,
    SendRequest,
    SyncReply,
    SyncRequest,
    TrustReply,
    TrustRequest,
)


@dataclass(frozen=True)
class Served:
    """A file to answer a fetch with.

    read: from byte (inclusive) and to byte (exclusive) to those bytes. immutable: the path will never mean other
    content, so caches may keep it for good.
    """

    size_bytes: int
    immutable: bool
    read: Callable[[int, int], Awaitable[bytes]]


class Hub(Protocol):
    """The server side of a hop. Every call but enrol comes from a device that has proven itself."""

    async def public_key(self, device_id: str) -> bytes | None:
        """The 32-byte key of an enrolled device that may speak here, else None. Asked on every request."""
        ...

    async def enrol(self, request: EnrolRequest) -> EnrolReply:
        """Admit a device whose request was signed by the key that it brings.

        Raises Refused if the join secret is not good, or the id is taken by another key; Unavailable if whoever
        decides is away. A repeat with the same key is answered alike.
        """
        ...

    async def sync(self, device_id: str, request: SyncRequest) -> SyncReply:
        """Take reports; answer at once if a desired state is newer than they know, else within request.wait_s."""
        ...

    async def trust(self, device_id: str, request: TrustRequest) -> TrustReply:
        """All signed metadata that the asker does not hold, in one answer of at most MAX_TRUST_BYTES.

        Places that it may not have are left out, and told so when their files are fetched. Raises NotFound where this
        cannot be answered, and each file must be fetched.
        """
        ...

    async def fetch(self, device_id: str, path: str) -> Served:
        """A metadata or target file. Raises NotFound."""
        ...

    async def send(self, device_id: str, request: SendRequest) -> SendReply:
        """Store events; returns only after they are durable here. A repeat has no further effect."""
        ...

    async def infer(self, device_id: str, request: InferRequest) -> InferReply:
        """Predict. Raises Unavailable when the deadline cannot be met."""
        ...
