"""What people call a source, before anything of it is opened: kept free of NumPy and OpenCV for who only checks it."""

import re
from pathlib import PurePath
from urllib.parse import urlsplit, urlunsplit

from edgeloop.contracts.errors import InvalidInput

STANDARD_INPUT = "-"
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".ts")
LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "http", "https")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(source: str) -> str | None:
    """The scheme of a URL that is read, in small letters; None if it is no URL.

    Raises InvalidInput if it is one that is not read, or names no host.
    """
    match = _SCHEME.match(source)
    if match is None:
        return None
    scheme = match[1].lower()
    if scheme not in LIVE_SCHEMES:
        raise InvalidInput(f"{scheme}:// is not read; expected {', '.join(LIVE_SCHEMES)}, a camera, a path or -")
    without_secrets(source)
    return scheme


def is_video_name(name: str) -> bool:
    """Whether a file or a URL's path ends as those of videos do."""
    return PurePath(name).suffix.lower() in VIDEO_SUFFIXES


def check_lasting(source: str) -> None:
    """Raise InvalidInput if this can never be what a device senses. What is not there yet may come."""
    if not source or "\0" in source:
        raise InvalidInput(f"the source is {source!r}; expected a camera, a URL, a folder or a file")
    if source == STANDARD_INPUT:
        raise InvalidInput(
            "a device does not read standard input, which ends with whoever started it; name a camera, a URL, a "
            "folder or a file"
        )
    scheme_of(source)


def shown(source: str) -> str:
    """A source as it may be shown: a URL without its secrets, everything else as it is. Raises as without_secrets."""
    return without_secrets(source) if _SCHEME.match(source) else source


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user, password and query. Raises InvalidInput if it is none.

    >>> without_secrets("rtsp://admin:1234@10.0.0.7:554/door?token=5")
    'rtsp://10.0.0.7:554/door'
    """
    try:
        parts = urlsplit(url)
        named = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInput(f"this URL cannot be read: {error}") from error
    if not named[0]:
        raise InvalidInput(f"{parts.scheme}:// names no host; expected such as rtsp://HOST:554/PATH")
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
