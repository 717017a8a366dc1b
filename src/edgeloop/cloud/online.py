"""The keys that the server signs with by itself, in a folder, found by the ids that roots name them by.

Which of them counts is said by the newest root alone: to bring in a new key is to make it here and to sign a root that
names it. Replicas share the folder, or are each given the same keys.
"""

import threading
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.errors import Unavailable
from edgeloop.transport.identity import private_pem, read_key
from edgeloop.transport.signing import public_key


class OnlineKeys:
    """A folder of private keys. Safe to use from many threads; a key that is put there is seen when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._found: dict[str, tuple[Path, Ed25519PrivateKey]] = {}

    def find(self, key_id: str) -> Ed25519PrivateKey:
        """See repository.FindKey."""
        with self._lock:
            if key_id not in self._found:
                self._look()
            if key_id not in self._found:
                raise Unavailable(
                    f"the root names the online key {key_id[:12]}, which is not in {self._folder}. Copy it there from "
                    "the replica that has it, or make a new one with 'edgeloop keys rotate online'."
                )
            return self._found[key_id][1]

    def has(self, key_id: str) -> bool:
        """True if the key is here now."""
        with self._lock:
            self._look()
            return key_id in self._found

    def make(self, name: str) -> Ed25519PrivateKey:
        """A new key, kept as NAME-ID.pem."""
        key = Ed25519PrivateKey.generate()
        write_durable(self._folder / f"{name}-{public_key(key).keyid[:12]}.pem", private_pem(key), mode=0o600)
        return key

    def forget(self, key_ids: set[str]) -> None:
        """Remove keys that no root names any more."""
        with self._lock:
            self._look()
            for key_id in key_ids & self._found.keys():
                self._found.pop(key_id)[0].unlink(missing_ok=True)

    def _look(self) -> None:
        keys = {path: read_key(path) for path in sorted(self._folder.glob("*.pem"))}
        self._found = {public_key(key).keyid: (path, key) for path, key in keys.items()}
