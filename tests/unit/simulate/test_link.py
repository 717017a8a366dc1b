import random

import httpx
import pytest

from edgeloop.simulate.link import LinkTransport, Way, held_s
from edgeloop.simulate.plan import LINKS, Faults, Link
from edgeloop.simulate.tally import Tally

pytestmark = pytest.mark.anyio
BODY = b"x" * 1000


class Answer(httpx.AsyncByteStream):
    async def __aiter__(self):
        yield BODY


def client_over(tally: Tally, *, faults: Faults | None = None, link: Link | None = None, status: int = 200):
    async def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, headers={"content-length": str(len(BODY))}, stream=Answer())

    way = Way(link or LINKS["loopback"], faults or Faults(), random.Random(1))
    transport = LinkTransport(httpx.MockTransport(answer), way, tally)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1")


async def _failures(client: httpx.AsyncClient, count: int) -> int:
    failed = 0
    for _ in range(count):
        try:
            await client.post("/v1/send", content=BODY)
        except httpx.TransportError:
            failed += 1
    return failed


async def test_requests_bytes_and_latencies_are_counted_by_verb() -> None:
    tally = Tally()
    async with client_over(tally) as client:
        assert (await client.post("/v1/send", content=BODY)).content == BODY
        await client.get("/v1/fetch/targets/files/0")
    assert tally.requests == {"send": 1, "fetch": 1}
    assert tally.up_bytes > len(BODY)
    assert tally.down_bytes > 2 * len(BODY)
    assert {verb: spread.count for verb, spread in tally.latency.items()} == {"send": 1, "fetch": 1}


async def test_resets_happen_as_often_as_the_plan_says() -> None:
    tally = Tally()
    async with client_over(tally, faults=Faults(resets=0.3)) as client:
        failed = await _failures(client, 400)
    assert 80 < failed < 160


async def test_nothing_is_reset_without_faults() -> None:
    async with client_over(Tally()) as client:
        assert await _failures(client, 50) == 0


async def test_a_device_that_is_away_reaches_nobody() -> None:
    tally = Tally()
    async with client_over(tally, faults=Faults(offline=0.999)) as client:
        with pytest.raises(httpx.ConnectError):
            await client.post("/v1/send", content=BODY)
    assert tally.requests == {}


async def test_a_sync_that_was_answered_before_its_time_is_news_and_no_latency() -> None:
    tally = Tally()
    held_s.set(60.0)
    async with client_over(tally) as client:
        await client.post("/v1/sync", content=BODY)
    assert tally.news == 1
    assert "sync" not in tally.latency


async def test_failures_of_the_hub_are_counted_but_a_missing_file_is_none() -> None:
    tally = Tally()
    for status in (503, 404):
        async with client_over(tally, status=status) as client:
            await client.get("/v1/fetch/images/metadata/2.root.json")
    assert tally.errors == {"HTTP 503": 1}


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []

    async def sleep(wait_s: float) -> None:
        found.append(wait_s)

    monkeypatch.setattr("edgeloop.simulate.link.asyncio.sleep", sleep)
    return found


async def test_a_slow_link_waits_for_its_round_trip_and_its_bytes(slept: list[float]) -> None:
    link = Link("slow", 1000.0, 8_000.0, 8_000.0)
    async with client_over(Tally(), link=link) as client:
        await client.post("/v1/send", content=BODY)
    up_s, head_s, body_s = slept
    assert up_s > 0.5 + 1.0
    assert head_s > 0.5
    assert body_s == pytest.approx(1.0)
