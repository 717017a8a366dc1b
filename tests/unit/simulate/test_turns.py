import asyncio

from edgeloop.simulate.turns import Turns


def test_so_many_begin_with_each_turn_in_the_order_in_which_they_came() -> None:
    async def scenario() -> tuple[list[int], list[int]]:
        turns, begun = Turns(a_turn=2), list[int]()

        async def one(number: int) -> None:
            await turns.come()
            begun.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(one(number))
            for _ in range(5):  # turns of the loop, of which none takes as long as one of ours
                await asyncio.sleep(0)
            first = list(begun)
        return first, begun

    assert asyncio.run(scenario()) == ([0, 1], [0, 1, 2, 3, 4])


def test_who_went_away_takes_no_ones_turn_and_who_comes_later_has_one() -> None:
    async def scenario() -> bool:
        turns = Turns(a_turn=1)
        await turns.come()
        gone = asyncio.create_task(turns.come())
        stays = asyncio.create_task(turns.come())
        await asyncio.sleep(0)
        gone.cancel()
        async with asyncio.timeout(5):
            await stays
            await asyncio.sleep(0.1)  # nobody waits, nobody calls
            await turns.come()
        return gone.cancelled()

    assert asyncio.run(scenario())
