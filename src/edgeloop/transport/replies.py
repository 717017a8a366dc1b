"""What an HTTP answer means: bytes, or one of our errors."""

import httpx
import msgspec

from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound, Refused, Unavailable, by_code
from edgeloop.contracts.messages import ErrorReply


class StaleClock(Refused):
    """The hub turned a signature down for its time, and said what time it has."""

    def __init__(self, message: str, server_time_s: float) -> None:
        super().__init__(message)
        self.server_time_s = server_time_s


def raise_for_reply(response: httpx.Response) -> None:
    """Raise the error that a read response stands for, if it stands for one."""
    if response.is_success:
        return
    try:
        reply = msgspec.json.decode(response.content, type=ErrorReply)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _by_status(response) from None
    if reply.server_time_s is not None:
        raise StaleClock(reply.message, reply.server_time_s)
    raise by_code(reply.code)(reply.message)


def unreachable(error: httpx.HTTPError, url: str) -> EdgeloopError:
    """What a failure below HTTP means to the caller."""
    if isinstance(error, httpx.UnsupportedProtocol):
        return InvalidInput(f"{url!r} is no address; expected one such as http://127.0.0.1:8400")
    detail = str(error) or type(error).__name__
    return Unavailable(f"no answer from {url}: {detail}. Check that the server runs and the address is right.")


def _by_status(response: httpx.Response) -> EdgeloopError:
    """An answer that is not edgeloop's: a proxy's, or another server's."""
    what = f"{response.request.url} answered {response.status_code} {response.reason_phrase}"
    if response.status_code == 404:
        return NotFound(f"{what}; is an edgeloop hub at this address?")
    if response.status_code in (429, 500, 502, 503, 504):
        return Unavailable(f"{what}; try again later")
    return Refused(f"{what}, which no edgeloop hub does; check the address and what stands between")
