"""The connections of a simulated device: httpx's, with aiohttp's parser in C below it.

Real devices keep httpx's own, httpcore: they ask a few times a minute, and it is one library less on them. A simulation
asks for thousands, and is to leave the machine to those that it simulates for.
"""

import ssl

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from edgeloop.transport.membership import CONNECTIONS


class Connections(AiohttpTransport):
    """One device's, shared with no other. tls: whom to trust; may be shared."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        super().__init__(verify=tls, trust_env=False, limits=CONNECTIONS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx."""
        try:
            return await super().handle_async_request(request)
        except httpx.ConnectTimeout as error:
            # All that befalls a connection has this name here, and failures are counted by their names.
            cause = error.__cause__
            if isinstance(cause, aiohttp.ServerTimeoutError):
                raise
            kind = httpx.ConnectError if isinstance(cause, aiohttp.ClientConnectorError) else httpx.ReadError
            raise kind(str(error) or type(cause).__name__) from cause
