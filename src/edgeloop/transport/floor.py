"""The floor under signed metadata: the newest version and the newest time that were ever seen signed, on the disk.

A clock that went back makes nothing expired good again, and metadata that was lost with a disk's damage does not open
the way for older. A mark counts as long as the key that signed it does: once that key is revoked, what a thief had
signed for the year 2100 holds nobody up (TUF specification 1.0, 5.3.11, does the same for versions).
"""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.codec import from_json, to_pretty_json
from edgeloop.contracts.errors import Corrupt, InvalidInput, Refused


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """The highest that was seen of one repository. version: of its timestamp. signed_at_s: since 1970, 0 if unknown."""

    key_id: str
    version: int
    signed_at_s: float


class Floor:
    """Marks by repository, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marks: dict[str, Mark] | None = None

    def hold(self, repository: str, seen: Mark, *, expires_at_s: float) -> None:
        """Raise Refused if what was `seen` is behind the floor; else the floor is raised to it, on the disk.

        expires_at_s: when the first of what was seen expires.
        """
        marks = self._read()
        before = marks.get(repository)
        if before is not None and before.key_id == seen.key_id and seen.version < before.version:
            raise Refused(
                f"the {repository} metadata is older than what was seen here: its timestamp has version "
                f"{seen.version}, {before.version} was seen. Nothing was changed."
            )
        is_same_key = before is not None and before.key_id == seen.key_id
        newest_s = max(before.signed_at_s if before is not None and is_same_key else 0.0, seen.signed_at_s)
        if expires_at_s <= newest_s:
            raise Refused(
                f"the {repository} metadata is expired: it was good until {_day(expires_at_s)}, and something signed "
                f"on {_day(newest_s)} was seen here, whatever this device's clock says. Nothing was changed."
            )
        raised = marks | {repository: msgspec.structs.replace(seen, signed_at_s=newest_s)}
        if raised != marks:
            write_durable(self._path, to_pretty_json(raised))
            self._marks = raised

    def _read(self) -> dict[str, Mark]:
        if self._marks is None:
            self._marks = read_marks(self._path)
        return self._marks


def read_marks(path: Path) -> dict[str, Mark]:
    """Marks by repository; none if there is no such file, or if it is damaged."""
    try:
        return from_json(path.read_bytes(), dict[str, Mark], what=str(path))
    except FileNotFoundError:
        return {}
    except (Corrupt, InvalidInput):
        return {}  # it is written whole or not at all: this is a damaged disk, and what python-tuf keeps still protects


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
