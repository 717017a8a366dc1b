"""Signed metadata in one answer: what the cloud and the node both do of the `trust` verb.

Rules kept here: an answer is bounded, and a place comes whole or not at all, so that the asker knows which files it has
to ask for by themselves. Neighbours: `port` has the verb, `transport.packed` reads the answer.
"""

from collections.abc import Iterable, Mapping

from edgeloop.contracts.messages import MAX_TRUST_BYTES, TrustReply

DIRECTOR = "director/"
IMAGES = "images"


def devices_of(places: Iterable[str]) -> set[str]:
    """The devices whose director's metadata is asked for."""
    return {device_of(place) for place in places if place.startswith(DIRECTOR)}


def device_of(place: str) -> str:
    """The device of a director's place."""
    return place.removeprefix(DIRECTOR)


def kind_of(place: str) -> str:
    """Which repository a place is of: all devices' directors have the same roots.

    >>> kind_of("director/camera-1")
    'director'
    """
    return place.partition("/")[0]


class Together:
    """An answer that grows place by place."""

    def __init__(self, *, most_bytes: int = MAX_TRUST_BYTES) -> None:
        self._left_bytes = most_bytes
        self._whole: list[str] = []
        self._metadata: dict[str, bytes] = {}

    def add(self, place: str, files: Mapping[str, bytes]) -> bool:
        """All of a place that the asker does not hold, by file name. False where there is no room for it: it is left
        out then."""
        by_path = {f"{place}/metadata/{name}": data for name, data in files.items()}
        size_bytes = len(place) + sum(len(path) + len(data) for path, data in by_path.items())
        if size_bytes > self._left_bytes:
            return False
        self._left_bytes -= size_bytes
        self._whole.append(place)
        self._metadata |= by_path
        return True

    def reply(self, along: Mapping[str, bytes] | None = None) -> TrustReply:
        """The answer. along: files of bundles, by the paths at which they could be fetched."""
        return TrustReply(whole=tuple(self._whole), metadata=self._metadata, along=dict(along or {}))
