"""One suite over used nonces: of one process, and of replicas that share a PostgreSQL."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from edgeloop.cloud.store.database import Database
from edgeloop.cloud.store.nonces import SharedNonces
from edgeloop.cloud.store.tables import used_nonces
from edgeloop.contracts.errors import Unavailable
from edgeloop.hub.proof import Nonces, OwnNonces
from postgres import PostgresServer
from small_cloud import Clock

Make = Callable[[], Nonces]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["own", "shared"])
def make(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Make]:
    """A new memory in each process; the same one for all replicas."""
    if request.param == "own":
        yield lambda: OwnNonces(clock=clock)
        return
    database = Database(request.getfixturevalue("postgres").new_database("cloud_1"))
    yield lambda: SharedNonces(database, clock=clock)
    database.close()


def _use(nonces: Nonces, *keys: tuple[str, str], until_s: float = 2e9) -> list[bool]:
    """What each gave, asked all at once."""

    async def scenario() -> list[bool]:
        return list(await asyncio.gather(*(nonces.use(*key, until_s=until_s) for key in keys)))

    return asyncio.run(scenario())


def test_nonce_is_good_once(make: Make) -> None:
    nonces = make()
    assert [_use(nonces, ("camera-1", "a")) for _ in range(2)] == [[True], [False]]


def test_nonce_twice_at_once_is_good_for_the_first(make: Make) -> None:
    assert _use(make(), ("camera-1", "a"), ("camera-1", "b"), ("camera-1", "a")) == [True, True, False]


def test_nonces_of_devices_are_apart(make: Make) -> None:
    assert _use(make(), ("camera-1", "a"), ("camera-2", "a")) == [True, True]


def test_thousands_at_once_are_told_apart(make: Make) -> None:
    keys = [("camera-1", f"{index}") for index in range(1500)]
    nonces = make()
    assert (_use(nonces, *keys), _use(nonces, *keys)) == ([True] * 1500, [False] * 1500)


def test_nonce_is_forgotten_after_its_time(make: Make, clock: Clock) -> None:
    nonces = make()
    _use(nonces, ("camera-1", "a"), until_s=clock() + 600)
    clock.now_s += 599
    assert _use(nonces, ("camera-1", "a"), until_s=clock() + 600) == [False]
    clock.now_s += 62
    _use(nonces, ("camera-1", "b"), until_s=clock() + 600)
    assert _use(nonces, ("camera-1", "a"), until_s=clock() + 600) == [True]


@pytest.mark.parametrize(("kind", "is_good"), [("own", True), ("shared", False)])
def test_replay_at_another_replica_is_refused_only_where_nonces_are_shared(
    postgres: PostgresServer, clock: Clock, kind: str, *, is_good: bool
) -> None:
    """The control: memories of two processes do not know of each other, which is why replicas share one."""
    database = Database(postgres.new_database("cloud_1"))
    try:
        replicas = [SharedNonces(database, clock=clock) if kind == "shared" else OwnNonces(clock=clock) for _ in "ab"]
        assert _use(replicas[0], ("camera-1", "a")) == [True]
        assert _use(replicas[1], ("camera-1", "a")) == [is_good]
    finally:
        database.close()


def test_memory_of_a_process_begins_with_it_and_the_shared_one_does_not(postgres: PostgresServer, clock: Clock) -> None:
    database = Database(postgres.new_database("cloud_1"))
    database.close()
    assert (OwnNonces(clock=clock).oldest_s(), SharedNonces(database, clock=clock).oldest_s()) == (clock.now_s, 0.0)


def test_old_nonces_leave_the_table(postgres: PostgresServer, clock: Clock) -> None:
    database = Database(postgres.new_database("cloud_1"))
    nonces = SharedNonces(database, clock=clock)
    _use(nonces, ("camera-1", "a"), until_s=clock() + 10)
    clock.now_s += 100
    _use(nonces, ("camera-1", "b"), until_s=clock() + 10)
    kept = database.read_now(lambda c: list(c.execute(sa.select(used_nonces.c.nonce)).scalars()))
    database.close()
    assert kept == ["b"]


def test_database_that_became_read_only_is_unavailable_and_nobody_waits(postgres: PostgresServer, clock: Clock) -> None:
    """A standby after a failover answers so."""
    url = postgres.new_database("cloud_1")
    database = Database(url)
    nonces = SharedNonces(database, clock=clock)
    assert _use(nonces, ("camera-1", "a")) == [True]
    name = url.rpartition("/")[2]
    postgres.administer(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    database.engine.dispose()
    try:

        async def scenario() -> list[object]:
            asked = [nonces.use("camera-1", f"{index}", until_s=2e9) for index in range(3)]
            return list(await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60))

        told = asyncio.run(scenario())
        assert [type(one) for one in told] == [Unavailable] * 3
        assert "read-only" in str(told[0])
        with pytest.raises(Unavailable, match="read-only"):
            database.write_now(lambda c: c.execute(used_nonces.delete()) and None)
        assert database.read_now(lambda c: c.execute(sa.select(used_nonces.c.nonce)).scalar()) == "a"
    finally:
        database.close()


def test_whoever_waits_hears_of_a_fault_of_ours_too(postgres: PostgresServer, clock: Clock) -> None:
    database = Database(postgres.new_database("cloud_1"))
    broken = iter([ZeroDivisionError])

    def breaks_once() -> float:
        for error in broken:
            raise error
        return clock()

    nonces = SharedNonces(database, clock=breaks_once)
    try:

        async def ask(nonce: str) -> bool:
            return await asyncio.wait_for(nonces.use("camera-1", nonce, until_s=2e9), 60)

        with pytest.raises(ZeroDivisionError):
            asyncio.run(ask("a"))
        assert asyncio.run(ask("b"))
    finally:
        database.close()


def test_nonce_that_cannot_be_looked_up_is_no_good(postgres: PostgresServer, clock: Clock) -> None:
    database = Database(postgres.new_database("cloud_1"))
    nonces = SharedNonces(database, clock=clock)
    postgres.halt()
    try:
        with pytest.raises(Unavailable, match="try again"):
            _use(nonces, ("camera-1", "a"))
    finally:
        postgres.start()
    assert _use(nonces, ("camera-1", "a")) == [True]
    database.close()
