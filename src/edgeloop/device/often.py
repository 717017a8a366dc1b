"""What a device looks at again and again for as long as it works.

Rules kept here: a look that fails, whatever it was, is logged and waited out, and does not end the device, which goes
on answering; only a damaged record does, since the next start begins anew from what is whole, see `recovery`.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from edgeloop.backoff import Backoff
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.transport.sqlite import Damaged

_log = structlog.get_logger(__name__)


async def often(look: Callable[[], Awaitable[None]], *, every_s: float, longest_wait_s: float) -> None:
    """Look, wait and look again, until cancelled. longest_wait_s: after failures in a row. Raises Damaged."""
    backoff = Backoff(first_s=every_s, longest_s=longest_wait_s)
    while True:
        wait_s = every_s
        try:
            await look()
        except Damaged:
            raise
        except EdgeloopError as error:
            wait_s = backoff.failed()
            _log.warning("look_failed", look=look.__name__, code=error.code, detail=str(error))
        except Exception as error:  # noqa: BLE001 - the outer guard: what only looks must not end the device
            wait_s = backoff.failed()
            _log.error("look_broke", look=look.__name__, exc_info=error)
        else:
            backoff.succeeded()
        await asyncio.sleep(wait_s)
