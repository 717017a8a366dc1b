"""A hub's answer, read within bounds: whoever speaks to a device may lie, and must not fill its memory for that.

Rules kept here: nothing is unpacked; nothing is read beyond what was expected, nor for longer. Neighbours: `uplink`
asks, `replies` says what an answer means.
"""

import httpx

from edgeloop.contracts.errors import Corrupt
from edgeloop.contracts.messages import MAX_BODY_BYTES
from edgeloop.transport.replies import raise_for_reply

AS_IT_IS = {"accept-encoding": "identity"}
"""What stands between may pack answers, and a few packed bytes unpack to as many as they like."""

_MOST_ERROR_BYTES = 64 * 1024


async def read_answer(response: httpx.Response, what: str, *, max_bytes: int = MAX_BODY_BYTES) -> bytes:
    """All of a streamed answer, which is closed then. How long it takes is the caller's to bound.

    Raises the error that it stands for, or Corrupt where it is packed or goes on beyond max_bytes.
    """
    try:
        if not response.is_success:
            raise_for_reply(response, await _first(response, _MOST_ERROR_BYTES))
        require_unpacked(response, what)
        content = await _first(response, max_bytes + 1)
    finally:
        await response.aclose()
    if len(content) > max_bytes:
        raise Corrupt(f"{what} goes on after {max_bytes:,} bytes; given up")
    return content


def require_unpacked(response: httpx.Response, what: str) -> None:
    """Raise Corrupt if what stands between has packed the bytes."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise Corrupt(f"asked for {what} as it is, got it packed as {encoding!r}; a proxy packs it")


async def _first(response: httpx.Response, most_bytes: int) -> bytes:
    """So many bytes of it, or all; nothing of one that is packed."""
    content = bytearray()
    if response.headers.get("content-encoding", "identity") == "identity":
        async for chunk in response.aiter_bytes():
            content += chunk[: most_bytes - len(content)]
            if len(content) >= most_bytes:
                break
    return bytes(content)
