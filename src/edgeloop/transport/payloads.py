"""An event as it lies on the disk: the one place where a payload is written, and the one where it is read.

Neighbours: `outbox` keeps payloads, `seal` locks those that are samples.
"""

from edgeloop.contracts.codec import from_msgpack, to_msgpack
from edgeloop.contracts.errors import Corrupt, InvalidInput, Unavailable
from edgeloop.contracts.messages import Event, Sample
from edgeloop.transport.seal import Keyring, is_sealed

_CONTEXT = b"edgeloop outbox"


class Payloads:
    """keyring: seals samples, if there is one."""

    def __init__(self, keyring: Keyring | None) -> None:
        self._keyring = keyring

    def write(self, event: Event) -> bytes:
        """An event's payload."""
        plain = to_msgpack(event)
        if self._keyring is None or not isinstance(event.body, Sample):
            return plain
        return self._keyring.seal(plain, context=_CONTEXT)

    def differs(self, payload: bytes, event: Event) -> bool:
        """Whether a payload is of another event than this one. One that cannot be read is taken for the same."""
        kept = self.read_or_none(payload)
        return kept is not None and (kept.at_ms, type(kept.body)) != (event.at_ms, type(event.body))

    def read_or_none(self, payload: bytes) -> Event | None:
        """A payload's event; None where it cannot be read, which is told when its own turn comes."""
        try:
            return self.read(payload)
        except (Corrupt, InvalidInput, Unavailable):
            return None

    def read(self, payload: bytes) -> Event:
        """A payload's event. Raises Corrupt or InvalidInput, Unavailable without the key that it needs."""
        if not is_sealed(payload):
            return from_msgpack(payload, Event, what="an outbox row")
        if self._keyring is None:
            raise Unavailable("the outbox holds sealed samples, and no --sample-key was given; they wait for it")
        return from_msgpack(self._keyring.open(payload, context=_CONTEXT), Event, what="an outbox row")
