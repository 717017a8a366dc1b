"""The errors that edgeloop raises, grouped by what the caller can do about them.

    EdgeloopError
    ├── InvalidInput     fix what you passed in
    ├── NotFound         name something that exists
    ├── Refused          you may not, or it was judged and turned down; trying again will not help
    ├── Unavailable      nothing is wrong with the request; try again later
    └── Corrupt          bytes are not what they claim to be; fetch or make them again

Each class has a stable `code` (it travels on the wire) and a process exit code. A message says what came,
what was expected and how to fix it. It repeats words of files and strangers, so it is shown without what could act on a
terminal or a log, and not at any length. Neighbours: `hub` turns these into HTTP answers, `transport` turns the
answers back into these.
"""

from typing import ClassVar

_MOST_LETTERS = 4000


class EdgeloopError(Exception):
    """Root of everything edgeloop raises on purpose."""

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        """The message, with control characters as their escapes, and cut where it goes on and on.

        >>> str(EdgeloopError("no label 'a\\x1b[2J'"))
        "no label 'a\\\\x1b[2J'"
        """
        said = super().__str__()
        beyond = len(said) - _MOST_LETTERS
        if beyond > 0:
            said = f"{said[:_MOST_LETTERS]} ... ({beyond:,} letters more)"
        if said.isprintable():
            return said
        return "".join(one if one.isprintable() or one in "\n\t" else repr(one)[1:-1] for one in said)


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
    """The other side, the disk or the network cannot serve this now: try again later.

    retry_after_s: not before then, where the other side said so.
    """

    retry_after_s: float = 0.0
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
