"""The errors that edgeloop raises, grouped by what the caller can do about them.

    EdgeloopError
    ├── InvalidInput     fix what you passed in
    ├── NotFound         name something that exists
    ├── Refused          you may not, or it was judged and turned down; trying again will not help
    ├── Unavailable      nothing is wrong with the request; try again later
    └── Corrupt          bytes are not what they claim to be; fetch or make them again

Each class has a stable `code` (it travels on the wire) and a process exit code. A message says what came,
what was expected and how to fix it. Neighbours: `hub` turns these into HTTP answers, `transport` turns the
answers back into these.
"""

from typing import ClassVar


class EdgeloopError(Exception):
    """Root of everything edgeloop raises on purpose."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1


class InvalidInput(EdgeloopError, ValueError):
    """What was passed in is wrong: fix it and call again."""

    code = "invalid_input"
    http_status = 400
    exit_code = 2


class NotFound(EdgeloopError, LookupError):
    """What was named does not exist."""

    code = "not_found"
    http_status = 404
    exit_code = 3


class Refused(EdgeloopError):
    """The request was understood and turned down: the same request will be turned down again."""

    code = "refused"
    http_status = 403
    exit_code = 4


class Unavailable(EdgeloopError):
    """The other side, the disk or the network cannot serve this now: try again later."""

    code = "unavailable"
    http_status = 503
    exit_code = 5


class Corrupt(EdgeloopError):
    """Bytes are not what they claim to be: hashes, structure or signatures do not hold."""

    code = "corrupt"
    http_status = 422
    exit_code = 6


def by_code(code: str) -> type[EdgeloopError]:
    """The error class that a wire `code` stands for; an unknown code gives `EdgeloopError` itself."""
    for kind in (InvalidInput, NotFound, Refused, Unavailable, Corrupt):
        if kind.code == code:
            return kind
    return EdgeloopError
