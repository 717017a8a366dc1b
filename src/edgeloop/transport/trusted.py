"""Trust for an event loop: its questions run on a thread, one at a time, what they fetch runs on the loop.

Neighbour: `trust` is imported and made when something is first asked: python-tuf takes 70 ms and 3 MB that a waiting
agent or node can spare.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.messages import TrustReply, TrustRequest
from edgeloop.transport.membership import Membership

if TYPE_CHECKING:
    from edgeloop.transport.trust import Trust

T = TypeVar("T")
A = TypeVar("A")


class Trusted:
    """A member's `Trust`, kept in a folder. Belongs to one event loop.

    fetch: path and most bytes to bytes, from the hub or from what it is known by here. fetch_all: many files in one
    answer of the hub, if they are to be asked for so. clock: see Trust.
    """

    def __init__(
        self,
        member: Membership,
        folder: Path,
        fetch: Callable[[str, int], Awaitable[bytes]],
        *,
        fetch_all: Callable[[TrustRequest], Awaitable[TrustReply]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._member = member
        self._folder = folder
        self._fetch = fetch
        self._fetch_all = fetch_all
        self._clock = clock
        self._lock = asyncio.Lock()
        self._trust: Trust | None = None
        self._fetching: asyncio.Future[Any] | None = None
        self._is_given_up = False

    async def ask(self, question: Callable[["Trust"], T]) -> T:
        """What Trust answers. A cancelled caller leaves once the thread is done, which then fetches no more."""
        async with self._lock:
            self._is_given_up = False
            loop = asyncio.get_running_loop()
            running = asyncio.ensure_future(asyncio.to_thread(self._answer, question, loop))
            try:
                return await asyncio.shield(running)
            except asyncio.CancelledError:
                self._is_given_up = True
                if self._fetching is not None:
                    self._fetching.cancel()
                await asyncio.wait([running])
                running.exception()  # whatever came of it: nobody wants to know any more
                raise

    def _answer(self, question: Callable[["Trust"], T], loop: asyncio.AbstractEventLoop) -> T:
        from edgeloop.transport.trust import Trust

        def carry(asked: Callable[[], Awaitable[A]], what: str) -> A:
            return asyncio.run_coroutine_threadsafe(self._carry(asked, what), loop).result()

        def fetch(path: str, max_bytes: int) -> bytes:
            return carry(lambda: self._fetch(path, max_bytes), path)

        def fetch_all(request: TrustRequest) -> TrustReply:
            assert self._fetch_all is not None
            asked = self._fetch_all
            return carry(lambda: asked(request), "what is signed")

        if self._trust is None:
            self._trust = Trust(
                self._folder,
                images_root=self._member.images_root,
                director_root=self._member.director_root,
                fetch=fetch,
                fetch_all=None if self._fetch_all is None else fetch_all,
                clock=self._clock,
            )
        return question(self._trust)

    async def _carry(self, asked: Callable[[], Awaitable[A]], what: str) -> A:
        """Fetch for the thread, unless nobody waits for it any more."""
        if self._is_given_up:
            raise Unavailable(f"{what} is no longer wanted")
        self._fetching = fetching = asyncio.ensure_future(asked())
        try:
            return await fetching
        except asyncio.CancelledError as error:
            raise Unavailable(f"{what} is no longer wanted") from error
        finally:
            self._fetching = None
