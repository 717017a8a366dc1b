"""What an HTTP answer means: bytes, or one of our errors."""

import ssl

import httpx
import msgspec

from edgeloop.contracts.codec import ready
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound, Refused, Unavailable, by_code
from edgeloop.contracts.messages import ErrorReply

_LONGEST_WAIT_S = 600.0
"""Whatever a hub asks for: nobody is told to stay away for good."""


class StaleClock(Refused):
    """The hub turned a signature down for its time, and said what time it has."""

    def __init__(self, message: str, server_time_s: float) -> None:
        super().__init__(message)
        self.server_time_s = server_time_s


def raise_for_reply(response: httpx.Response, content: bytes | None = None) -> None:
    """Raise the error that a response stands for, if it stands for one. content: what it says, its own if it was
    read."""
    if response.is_success:
        return
    try:
        reply = msgspec.json.decode(response.content if content is None else content, type=ready(ErrorReply))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _by_status(response) from None
    if reply.server_time_s is not None:
        raise StaleClock(reply.message, reply.server_time_s)
    failure = by_code(reply.code)(reply.message)
    if isinstance(failure, Unavailable) and reply.retry_after_s is not None:
        failure.retry_after_s = min(max(0.0, reply.retry_after_s), _LONGEST_WAIT_S)
    raise failure


def unreachable(error: httpx.HTTPError, url: str) -> EdgeloopError:
    """What a failure below HTTP means to the caller."""
    if isinstance(error, httpx.UnsupportedProtocol):
        return InvalidInput(f"{url!r} is no address; expected one such as http://127.0.0.1:8400")
    untrusted = _untrusted(error)
    if untrusted is not None:
        return Refused(
            f"{url} does not prove that it is the right server: {untrusted.verify_message}. If its certificate "
            "expired, renew it there ('edgeloop tls renew'); if it is signed by a private authority, enrol with a "
            "join token of that cloud, or name the authority's file with --ca."
        )
    detail = str(error) or type(error).__name__
    return Unavailable(f"no answer from {url}: {detail}. Check that the server runs and the address is right.")


def _untrusted(error: BaseException) -> ssl.SSLCertVerificationError | None:
    """The certificate's fault below an HTTP failure, if that is what it was."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _by_status(response: httpx.Response) -> EdgeloopError:
    """An answer that is not edgeloop's: a proxy's, or another server's."""
    what = f"{response.request.url} answered {response.status_code} {response.reason_phrase}"
    if response.status_code == 404:
        return NotFound(f"{what}; is an edgeloop hub at this address?")
    if response.status_code == 413:
        return InvalidInput(f"{what}; what stands before the hub takes no requests as large")
    if response.status_code in (429, 500, 502, 503, 504):
        return Unavailable(f"{what}; try again later")
    return Refused(f"{what}, which no edgeloop hub does; check the address and what stands between")
