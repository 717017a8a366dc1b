"""Whoever started this process, systemd for one, hears when it is ready, that it is alive, and that it ends.

Datagrams to the socket that $NOTIFY_SOCKET names. Signs of life come from the event loop, twice as often as
$WATCHDOG_USEC asks for: when the loop hangs they stop, and the supervisor starts the process anew. Below everything,
since agents and servers are watched alike. Source: sd_notify(3), sd_watchdog_enabled(3).
"""

import asyncio
import os
import socket
from collections.abc import Mapping

import structlog

_log = structlog.get_logger(__name__)
_PATIENCE_S = 1.0


class Supervisor:
    """What it says goes nowhere if there is nobody to hear it. environ: the process's environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._every_s = _watchdog_s(environ) / 2
        self._next: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """Say that the work has begun. On the event loop, which gives signs of life from then on."""
        self._tell("READY=1")
        if self._address and self._every_s > 0:
            self._live()

    def ending(self) -> None:
        """Say that the process is about to end."""
        if self._next is not None:
            self._next.cancel()
        self._tell("STOPPING=1")

    def _live(self) -> None:
        self._tell("WATCHDOG=1")
        self._next = asyncio.get_running_loop().call_later(self._every_s, self._live)

    def _tell(self, what: str) -> None:
        if not self._address:
            return
        # An @ stands for the zero that begins an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as handle:
                handle.settimeout(_PATIENCE_S)
                handle.sendto(what.encode(), address)
        except OSError as error:
            _log.warning("supervisor_not_told", what=what, detail=str(error))


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """How often a sign of life is asked of this very process; 0 if it is not."""
    period, whom = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not period.isdecimal() or (whom and whom != str(os.getpid())):
        return 0.0
    return int(period) / 1e6
