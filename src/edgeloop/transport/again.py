"""When something that failed is tried again: as a back-off says, and no sooner than the other side asked for."""

from edgeloop.backoff import Backoff
from edgeloop.contracts.errors import EdgeloopError, Unavailable

FIRST_WAIT_S = 0.2
"""Before a link that failed is tried again."""


def asked_wait_s(error: EdgeloopError, backoff: Backoff) -> float:
    """How long to wait after this failure.

    >>> error = Unavailable("much to do here")
    >>> error.retry_after_s = 12.0
    >>> asked_wait_s(error, Backoff(first_s=0.2, longest_s=30.0))
    12.0
    """
    wait_s = backoff.failed()
    return max(wait_s, error.retry_after_s) if isinstance(error, Unavailable) else wait_s
