import asyncio
from itertools import pairwise

from edgeloop.simulate.turns import Turns


def test_so_many_begin_with_each_turn_in_the_order_in_which_they_came() -> None:
    async def scenario() -> tuple[list[int], list[int]]:
        turns, begun = Turns(a_turn=2), list[int]()

        async def one(number: int) -> None:
            await turns.come()
            begun.append(number)

        counts = [0]
        async with asyncio.TaskGroup() as group:
            for number in range(7):
                group.create_task(one(number))
            while len(begun) < 7:
                await asyncio.sleep(0)
                counts.append(len(begun))
        return [after - before for before, after in pairwise(counts)], begun

    steps, begun = asyncio.run(scenario())
    assert [step for step in steps if step] == [2, 2, 2, 1]
    assert begun == list(range(7))


def test_who_went_away_takes_no_ones_turn_and_who_comes_later_has_one() -> None:
    async def scenario() -> bool:
        turns = Turns(a_turn=1)
        await turns.come()
        gone = [asyncio.create_task(turns.come()) for _ in range(50)]
        stays = asyncio.create_task(turns.come())
        await asyncio.sleep(0)
        for one in gone:
            one.cancel()
        for _ in range(6):  # far fewer turns than have gone
            await asyncio.sleep(0)
        assert stays.done()
        async with asyncio.timeout(5):
            await turns.come()  # nobody waits, nobody calls
        return all(one.cancelled() for one in gone)

    assert asyncio.run(scenario())
