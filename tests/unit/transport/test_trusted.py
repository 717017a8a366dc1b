import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edgeloop.contracts.errors import NotFound, Refused
from edgeloop.contracts.states import Kind
from edgeloop.transport.membership import Membership
from edgeloop.transport.trust import Trust
from edgeloop.transport.trusted import Trusted
from small_cloud import SmallCloud

pytestmark = pytest.mark.anyio


def _trusted(cloud: SmallCloud, folder: Path, fetch: Callable[[str, int], Awaitable[bytes]]) -> Trusted:
    images_root, director_root = cloud.roots.newest()
    member = Membership(
        device_id="gateway",
        kind=Kind.NODE,
        hub_url="http://cloud.test",
        images_root=images_root,
        director_root=director_root,
    )
    return Trusted(member, folder, fetch)


class Above:
    """What is fetched from: nothing is there, and it may keep one waiting."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.asked: list[str] = []
        self.threads: set[threading.Thread] = set()

    async def fetch(self, path: str, max_bytes: int) -> bytes:
        """See Trusted."""
        self.asked.append(path)
        self.threads.add(threading.current_thread())
        await self.go.wait()
        raise NotFound(path)


@pytest.fixture
def above() -> Above:
    return Above()


@pytest.fixture
def trusted(cloud: SmallCloud, tmp_path: Path, above: Above) -> Trusted:
    return _trusted(cloud, tmp_path / "trust", above.fetch)


async def _wait_for(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not is_true():
            await asyncio.sleep(0.001)


async def test_question_runs_on_a_thread_and_what_it_fetches_on_the_loop(trusted: Trusted, above: Above) -> None:
    def question(trust: Trust) -> threading.Thread:
        with pytest.raises(Exception, match="metadata"):
            trust.signed()
        return threading.current_thread()

    assert await trusted.ask(question) is not threading.current_thread()
    assert above.threads == {threading.current_thread()}


async def test_what_trust_raises_comes_out(trusted: Trusted) -> None:
    def question(_: Trust) -> None:
        raise Refused("no")

    with pytest.raises(Refused, match="no"):
        await trusted.ask(question)


async def test_second_question_waits_for_the_first(trusted: Trusted) -> None:
    begun: list[str] = []
    go = threading.Event()

    def question(name: str) -> Callable[[Trust], None]:
        def ask(_: Trust) -> None:
            begun.append(name)
            assert go.wait(10.0)

        return ask

    first = asyncio.create_task(trusted.ask(question("first")))
    await _wait_for(lambda: bool(begun))
    second = asyncio.create_task(trusted.ask(question("second")))
    await asyncio.wait([second], timeout=0.1)  # time enough for a thread to begin
    assert begun == ["first"]
    go.set()
    await asyncio.gather(first, second)
    assert begun == ["first", "second"]


async def test_all_questions_are_put_to_the_same_trust(trusted: Trusted) -> None:
    assert await trusted.ask(lambda trust: trust) is await trusted.ask(lambda trust: trust)


async def test_who_gives_up_leaves_although_the_hub_does_not_answer(trusted: Trusted, above: Above) -> None:
    above.go.clear()
    asking = asyncio.create_task(trusted.ask(lambda trust: trust.signed()))
    await _wait_for(lambda: bool(above.asked))
    asking.cancel()
    async with asyncio.timeout(10.0):
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert len(above.asked) == 1


async def test_next_question_is_answered_after_one_that_was_given_up(trusted: Trusted, above: Above) -> None:
    above.go.clear()
    asking = asyncio.create_task(trusted.ask(lambda trust: trust.signed()))
    await _wait_for(lambda: bool(above.asked))
    asking.cancel()
    await asyncio.wait([asking])
    above.go.set()
    with pytest.raises(Exception, match="metadata"):
        await trusted.ask(lambda trust: trust.signed())
    assert len(above.asked) > 1
