"""The pool with a runner that a test holds by the hand, and with the real one."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from builders import LABELS, Damage, as_bundle, make_parts, quadrant_images, quadrant_weights
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Refused, Unavailable
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.batched import BatchPredictor
from edgeloop.runtime.engines.port import Setting
from edgeloop.runtime.pool import Overloaded, Pool, PoolSettings
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.servable import Batch, Pace, Servable, best_of, prove, sizes_up_to, unproven
from held import Held, HeldRunner, begun, is_loading, opened, servable, stalled
from serving import batchable_quadrants, batchable_slow_quadrants, wide_quadrants

pytestmark = pytest.mark.anyio

IMAGES = quadrant_images(8, seed=3)
LONG_S = 30.0
ONE_WORKER = PoolSettings(workers=1, max_queue=4, inline_ms=0)


# ---- answering


async def test_each_of_many_askers_gets_the_answer_to_its_own_question() -> None:
    bundle = as_bundle(make_parts())
    pool = await Pool.open(proven(bundle), PoolSettings(workers=2, inline_ms=0))
    made = await asyncio.gather(*(pool.predict(IMAGES[index % 4], deadline_s=LONG_S) for index in range(64)))
    await pool.close()
    assert [one.label for one in made] == [LABELS[index % 4] for index in range(64)]


async def test_short_answers_are_the_same_on_the_loop_and_on_workers() -> None:
    bundle = as_bundle(make_parts())
    made = []
    for inline_ms in (1000.0, 0.0):
        pool = await Pool.open(proven(bundle), PoolSettings(workers=1, inline_ms=inline_ms))
        made.append(await pool.predict(IMAGES[1], deadline_s=LONG_S))
        await pool.close()
    assert made[0].top == made[1].top


async def test_short_answers_are_computed_on_the_event_loop() -> None:
    held = opened()
    pool = await Pool.open(servable("a", held, pace=Pace(item_s=1e-5)), PoolSettings(workers=1))
    asking = pool.predict(b"image", deadline_s=LONG_S)
    with pytest.raises(StopIteration) as ended:  # it ends at the first step: nothing was waited for
        asking.send(None)
    assert ended.value.value.label == "a"
    await pool.close()


async def test_one_asker_alone_is_answered_on_the_event_loop_by_what_answers_it_soonest() -> None:
    many, alone = opened(), opened()
    pace = Pace(item_s=0.004, alone_s=0.002)
    both = replace(servable("many", many, pace=pace), open_alone=lambda: HeldRunner("alone", alone))
    pool = await Pool.open(both, PoolSettings(workers=1))
    assert (await pool.predict(b"", deadline_s=LONG_S, alone=True)).label == "alone"
    assert (await pool.predict(b"", deadline_s=LONG_S)).label == "many"
    many.gate.clear()
    waiting = asyncio.ensure_future(pool.predict(b"", deadline_s=LONG_S))
    await begun(many, 2)
    behind = asyncio.ensure_future(pool.predict(b"", deadline_s=LONG_S, alone=True))  # it is not: another waits
    await asyncio.sleep(0)
    assert not behind.done()
    many.gate.set()
    assert {one.label for one in await asyncio.gather(waiting, behind)} == {"many"}
    await pool.close()
    assert (alone.opened, alone.closed) == (1, 1)


async def test_model_that_takes_long_never_holds_up_the_event_loop() -> None:
    pool = await Pool.open(servable("a", opened(), pace=Pace(item_s=0.05)), PoolSettings(workers=1))
    asking = pool.predict(b"", deadline_s=LONG_S, alone=True)
    assert asking.send(None) is not None  # a future: it waits for a worker
    asking.close()
    await pool.close()


async def test_large_inputs_go_to_the_workers_however_short_the_model() -> None:
    held = opened()
    pool = await Pool.open(servable("a", held, pace=Pace(item_s=1e-5)), PoolSettings(workers=1))
    asking = pool.predict(b"image" * 10_000, deadline_s=LONG_S)
    assert asking.send(None) is not None  # a future: it waits for a worker
    asking.close()
    await pool.close()


async def test_after_an_answer_that_held_up_the_loop_the_workers_answer() -> None:
    held = opened()
    held.burn_s = 0.03
    pool = await Pool.open(servable("a", held, pace=Pace(item_s=1e-5)), PoolSettings(workers=1))
    await pool.predict(b"bomb", deadline_s=LONG_S)
    asking = pool.predict(b"image", deadline_s=LONG_S)
    assert asking.send(None) is not None
    asking.close()
    await pool.close()


async def test_waiting_that_is_not_the_inputs_fault_changes_nothing() -> None:
    held = opened()
    pool = await Pool.open(servable("a", held, pace=Pace(item_s=1e-5)), PoolSettings(workers=1))
    held.gate.clear()
    threading.Timer(0.05, held.gate.set).start()
    await pool.predict(b"image", deadline_s=LONG_S)
    with pytest.raises(StopIteration):
        pool.predict(b"image", deadline_s=LONG_S).send(None)
    await pool.close()


async def test_tensors_of_one_request_come_back_in_order() -> None:
    pool = await Pool.open(servable("a", opened()), PoolSettings(workers=2, inline_ms=0))
    tensors = [np.full((1, 2), index, np.float32) for index in range(10)]
    made = await pool.run_tensors(tensors, deadline_s=LONG_S)
    await pool.close()
    assert [one["twice"].tolist() for one in made] == [[[2 * index, 2 * index]] for index in range(10)]


async def test_error_of_one_input_is_raised_to_its_asker_alone() -> None:
    pool = await Pool.open(proven(as_bundle(make_parts())), PoolSettings(workers=1, inline_ms=0))
    made = await asyncio.gather(
        pool.predict(b"no image", deadline_s=LONG_S), pool.predict(IMAGES[2], deadline_s=LONG_S), return_exceptions=True
    )
    await pool.close()
    assert isinstance(made[0], Corrupt)
    assert isinstance(made[1], Prediction)
    assert (pool.counts.answered, pool.counts.failed) == (1, 1)


async def test_bug_in_a_runner_reaches_its_asker_and_the_worker_goes_on() -> None:
    held = opened()
    held.fail = ZeroDivisionError("a bug")
    pool = await Pool.open(servable("a", held), ONE_WORKER)
    with pytest.raises(ZeroDivisionError):
        await pool.predict(b"", deadline_s=LONG_S)
    held.fail = None
    assert (await pool.predict(b"", deadline_s=LONG_S)).label == "a"
    await pool.close()


# ---- back-pressure


async def test_more_than_the_queue_holds_are_turned_away_and_told_when_to_come_back() -> None:
    held = Held()
    pool = await Pool.open(servable("a", held, pace=Pace(item_s=2.0)), ONE_WORKER)
    waiting = [asyncio.ensure_future(pool.predict(b"", deadline_s=LONG_S)) for _ in range(4)]
    await begun(held)
    with pytest.raises(Overloaded, match="4 questions wait") as turned_away:
        await pool.predict(b"", deadline_s=LONG_S)
    assert turned_away.value.retry_after_s == 8.0  # 4 questions of 2 s each, one worker
    assert pool.depth == 4
    held.gate.set()
    assert len(await asyncio.gather(*waiting)) == 4
    await pool.close()
    assert (pool.counts.answered, pool.counts.rejected, pool.depth) == (4, 1, 0)


async def test_question_that_would_wait_beyond_its_deadline_is_turned_away_at_once() -> None:
    held = Held()
    pool = await Pool.open(servable("a", held, pace=Pace(item_s=2.0)), ONE_WORKER)
    waiting = asyncio.ensure_future(pool.predict(b"", deadline_s=LONG_S))
    await begun(held)
    with pytest.raises(Overloaded, match="longer than the deadline of 1000 ms"):
        await pool.predict(b"", deadline_s=1.0)
    held.gate.set()
    await waiting
    await pool.close()


async def test_several_inputs_are_all_let_in_or_none() -> None:
    held = Held()
    pool = await Pool.open(servable("a", held), ONE_WORKER)
    waiting = asyncio.ensure_future(pool.predict(b"", deadline_s=LONG_S))
    await begun(held)
    with pytest.raises(Overloaded):
        await pool.predict_many([b""] * 4, deadline_s=LONG_S)
    assert pool.depth == 1
    held.gate.set()
    await waiting
    await pool.close()


async def test_missed_deadline_is_unavailable_and_what_came_too_late_is_not_computed() -> None:
    held = Held()
    pool = await Pool.open(servable("a", held, pace=Pace(item_s=0.001)), ONE_WORKER)
    first = asyncio.ensure_future(pool.predict(b"first", deadline_s=LONG_S))
    await begun(held)
    with pytest.raises(Unavailable, match="before the deadline"):
        await pool.predict(b"second", deadline_s=0.05)
    held.gate.set()
    await first
    await pool.predict(b"third", deadline_s=LONG_S)
    await pool.close()
    assert held.asked == [b"first", b"third"]
    assert pool.counts.late == 1


async def test_question_that_is_late_makes_room_at_once() -> None:
    held = Held()
    pool = await Pool.open(servable("a", held, pace=Pace(item_s=0.001)), ONE_WORKER)
    first = asyncio.ensure_future(pool.predict(b"", deadline_s=LONG_S))
    await begun(held)
    with pytest.raises(Unavailable, match="before the deadline"):
        await pool.predict_many([b""] * 3, deadline_s=0.05)
    assert pool.depth == 1
    held.gate.set()
    await first
    await pool.close()
    assert (pool.counts.late, pool.depth) == (3, 0)


# ---- askers who go away


async def gone(asking: "asyncio.Future[Any]") -> None:
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_question_whose_asker_went_away_leaves_the_queue_is_counted_and_not_computed() -> None:
    held = Held()
    pool = await Pool.open(servable("a", held), ONE_WORKER)
    first, *others = [asyncio.ensure_future(pool.predict(b"%d" % index, deadline_s=LONG_S)) for index in range(4)]
    await begun(held)
    with pytest.raises(Overloaded):
        await pool.predict(b"no room", deadline_s=LONG_S)
    await gone(others[1])
    assert (pool.depth, pool.counts.gone) == (3, 1)
    in_its_place = asyncio.ensure_future(pool.predict(b"4", deadline_s=LONG_S))
    held.gate.set()
    assert [one.label for one in await asyncio.gather(first, others[0], others[2], in_its_place)] == ["a"] * 4
    await pool.close()
    assert held.asked == [b"0", b"1", b"3", b"4"]
    assert (pool.counts.answered, pool.counts.gone, pool.depth) == (4, 1, 0)


async def test_asker_who_goes_away_while_it_is_answered_frees_its_place_when_the_worker_is_done() -> None:
    held = Held()
    pool = await Pool.open(servable("a", held), ONE_WORKER)
    asking = asyncio.ensure_future(pool.predict(b"", deadline_s=LONG_S))
    await begun(held)
    await gone(asking)
    assert pool.depth == 1
    held.gate.set()
    await pool.predict(b"", deadline_s=LONG_S)
    await pool.close()
    assert (pool.counts.answered, pool.counts.gone, pool.depth) == (1, 1, 0)


async def test_asker_of_several_who_goes_away_takes_all_of_them_along() -> None:
    held = Held()
    pool = await Pool.open(servable("a", held), ONE_WORKER)
    first = asyncio.ensure_future(pool.predict(b"first", deadline_s=LONG_S))
    await begun(held)
    several = asyncio.ensure_future(pool.predict_many([b"1", b"2", b"3"], deadline_s=LONG_S))
    await asyncio.sleep(0)
    assert pool.depth == 4
    await gone(several)
    assert (pool.depth, pool.counts.gone) == (1, 3)
    held.gate.set()
    await first
    await pool.close()
    assert held.asked == [b"first"]


async def test_asker_who_goes_away_after_a_swap_leaves_the_former_versions_queue() -> None:
    old = Held()
    pool = await Pool.open(servable("old", old), ONE_WORKER)
    first = asyncio.ensure_future(pool.predict(b"first", deadline_s=LONG_S))
    await begun(old)
    waiting = asyncio.ensure_future(pool.predict(b"waiting", deadline_s=LONG_S))
    swapping = asyncio.ensure_future(pool.swap(servable("new", opened())))
    while pool.counts.swaps == 0:
        await asyncio.sleep(0)
    await gone(waiting)
    assert pool.depth == 1
    old.gate.set()
    await asyncio.gather(first, swapping)
    await pool.close()
    assert (old.asked, pool.depth) == ([b"first"], 0)


# ---- swapping


async def test_swap_drops_no_question_and_each_is_answered_by_one_of_the_two() -> None:
    old, new = Held(), opened()
    pool = await Pool.open(servable("old", old), PoolSettings(workers=2, max_queue=100, inline_ms=0))
    before = [asyncio.ensure_future(pool.predict(b"", deadline_s=LONG_S)) for _ in range(20)]
    await begun(old, 2)
    swapping = asyncio.ensure_future(pool.swap(servable("new", new)))
    while pool.counts.swaps == 0:
        await asyncio.sleep(0)
    after = [asyncio.ensure_future(pool.predict(b"", deadline_s=LONG_S)) for _ in range(20)]
    assert {one.label for one in await asyncio.gather(*after)} == {"new"}  # while the old one is still at work
    assert not swapping.done()
    old.gate.set()
    assert {one.label for one in await asyncio.gather(*before)} == {"old"}
    await swapping
    assert (old.opened, old.closed) == (2, 2)
    await pool.close()
    assert (new.opened, new.closed) == (2, 2)


async def test_version_that_does_not_load_leaves_the_one_that_answers() -> None:
    pool = await Pool.open(servable("old", opened()), PoolSettings(workers=2, inline_ms=0))
    second = iter((True, False))
    held = opened()

    def fails_the_second_time() -> HeldRunner:
        if next(second):
            return HeldRunner("new", held)
        raise Unavailable("no memory left")

    with pytest.raises(Unavailable, match="no memory"):
        await pool.swap(replace(servable("new", held), open=fails_the_second_time))
    assert (held.opened, held.closed) == (1, 1)
    assert (await pool.predict(b"", deadline_s=LONG_S)).label == "old"
    await pool.close()


async def test_close_answers_what_was_let_in_and_turns_away_what_comes_later() -> None:
    held = Held()
    pool = await Pool.open(servable("a", held), ONE_WORKER)
    waiting = asyncio.ensure_future(pool.predict(b"", deadline_s=LONG_S))
    await begun(held)
    closing = asyncio.ensure_future(pool.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="being closed"):
        await pool.predict(b"", deadline_s=LONG_S)
    held.gate.set()
    assert (await waiting).label == "a"
    await closing


async def test_many_swaps_leave_no_thread_behind() -> None:
    before = crew_threads()
    pool = await Pool.open(servable("0", opened()), PoolSettings(workers=2, inline_ms=0))
    for number in range(20):
        await pool.swap(servable(str(number), opened()))
    await pool.close()
    all_end(crew_threads() - before)


# ---- what fails or is cancelled leaves nothing behind


def crew_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("tiny@")}


async def test_pool_whose_opening_is_cancelled_closes_what_it_loads() -> None:
    held = stalled()
    opening = asyncio.ensure_future(Pool.open(servable("a", held), PoolSettings(workers=2, inline_ms=1000)))
    await is_loading(held)
    await gone(opening)
    held.loads.set()
    await loaded_and_closed(held, 3)  # two workers, and what answers on the event loop


@pytest.mark.parametrize("ends", ["asker", "pool"])
async def test_swap_that_is_cancelled_while_it_loads_changes_nothing_and_closes_what_it_loads(ends: str) -> None:
    before = crew_threads()
    old, new = opened(), stalled()
    pool = await Pool.open(servable("old", old), PoolSettings(workers=2, inline_ms=0))
    swapping = asyncio.ensure_future(pool.swap(servable("new", new)))
    await is_loading(new)
    if ends == "asker":
        await gone(swapping)
        new.loads.set()
        assert (await pool.predict(b"", deadline_s=LONG_S)).label == "old"
        await pool.close()
    else:
        await pool.close()
        new.loads.set()
        with pytest.raises(Unavailable, match="being closed"):
            await swapping
    await loaded_and_closed(new, 2)
    assert (old.opened, old.closed, pool.counts.swaps) == (2, 2, 0)
    all_end(crew_threads() - before)


async def test_swap_that_is_cancelled_while_the_former_still_answers_has_happened() -> None:
    before = crew_threads()
    old, new = Held(), opened()
    pool = await Pool.open(servable("old", old), ONE_WORKER)
    asking = asyncio.ensure_future(pool.predict(b"", deadline_s=LONG_S))
    await begun(old)
    swapping = asyncio.ensure_future(pool.swap(servable("new", new)))
    while pool.counts.swaps == 0:
        await asyncio.sleep(0)
    await gone(swapping)
    assert (await pool.predict(b"", deadline_s=LONG_S)).label == "new"
    closing = asyncio.ensure_future(pool.close())
    old.gate.set()
    assert (await asking).label == "old"
    await closing
    assert (old.opened, old.closed, new.opened, new.closed) == (1, 1, 1, 1)
    all_end(crew_threads() - before)


async def test_of_two_swaps_the_one_that_was_asked_for_last_answers() -> None:
    slow, quick = stalled(), opened()
    pool = await Pool.open(servable("old", opened()), ONE_WORKER)
    first = asyncio.ensure_future(pool.swap(servable("slow", slow)))
    await is_loading(slow)
    second = asyncio.ensure_future(pool.swap(servable("quick", quick)))
    await asyncio.sleep(0)
    slow.loads.set()
    await asyncio.gather(first, second)
    assert (await pool.predict(b"", deadline_s=LONG_S)).label == "quick"
    await pool.close()
    assert (slow.opened, slow.closed, quick.opened, quick.closed) == (1, 1, 1, 1)


@pytest.mark.parametrize("error", [MemoryError("the engine's"), RuntimeError("a driver's"), Unavailable("ours")])
@pytest.mark.parametrize("workers", [1, 3])
async def test_whatever_loading_raises_what_was_loaded_is_closed(error: Exception, workers: int) -> None:
    held = opened()
    held.fail_load = error  # with one worker, for what answers on the event loop
    with pytest.raises(type(error)):
        await Pool.open(servable("a", held), PoolSettings(workers=workers, inline_ms=1000))
    assert (held.opened, held.closed) == (1, 1)


async def test_runner_that_cannot_be_closed_keeps_nobody_waiting() -> None:
    held = opened()
    held.fail_close = RuntimeError("a driver's")
    pool = await Pool.open(servable("a", held), PoolSettings(workers=2, inline_ms=0))
    await pool.close()
    assert held.closed == 2


async def test_crew_for_which_there_are_no_threads_is_closed_and_the_former_answers_on() -> None:
    before = crew_threads()
    old, new = opened(), opened()
    pool = await Pool.open(servable("old", old), ONE_WORKER)
    usual_bytes = threading.stack_size(2**44)  # more than there is room for: no thread starts
    try:
        with pytest.raises(Unavailable, match="no thread for worker 0 of 1"):
            await pool.swap(servable("new", new))
    finally:
        threading.stack_size(usual_bytes)
    assert (new.opened, new.closed) == (1, 1)
    assert (await pool.predict(b"", deadline_s=LONG_S)).label == "old"
    await pool.close()
    await pool.close()  # once more does no harm
    assert (old.opened, old.closed) == (1, 1)
    all_end(crew_threads() - before)


async def loaded_and_closed(held: Held, count: int) -> None:
    """Until so many were loaded and closed again; they are in a thread that nobody waits for."""
    while held.closed < count:
        await asyncio.sleep(0.001)
    assert (held.opened, held.closed) == (count, count)


def all_end(threads: set[threading.Thread]) -> None:
    for thread in threads:  # each has told its last and is about to end
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in threads)


# ---- batches


async def test_asker_who_goes_away_hurts_nobody_in_the_same_batch() -> None:
    held = Held()
    pace = Pace(item_s=0.001, batch=4, pays_from=2)
    pool = await Pool.open(servable("a", held, pace=pace), PoolSettings(workers=1, max_queue=20, inline_ms=0))
    first = asyncio.ensure_future(pool.predict(b"first", deadline_s=LONG_S))
    await begun(held)
    waiting = [asyncio.ensure_future(pool.predict(b"%d" % index, deadline_s=LONG_S)) for index in range(4)]
    await asyncio.sleep(0)
    await gone(waiting[1])  # before its batch is made up
    held.gate.set()
    assert [(await waiting[index]).label for index in (0, 2, 3)] == ["a"] * 3
    await first
    assert (held.batches, held.asked) == ([3], [b"first", b"0", b"2", b"3"])
    held.gate.clear()
    together = [asyncio.ensure_future(pool.predict(b"%d" % index, deadline_s=LONG_S)) for index in range(4, 7)]
    await begun(held, 4)
    await gone(together[0])  # while its batch is at work, or waits for what was taken before it
    held.gate.set()
    assert [(await one).label for one in together[1:]] == ["a"] * 2
    await pool.close()
    assert (pool.counts.gone, pool.counts.answered, pool.depth) == (2, 6, 0)


async def test_waiting_questions_are_answered_in_one_run_where_batching_pays() -> None:
    held = Held()
    pace = Pace(item_s=0.001, batch=4, pays_from=2)
    pool = await Pool.open(servable("a", held, pace=pace), PoolSettings(workers=1, max_queue=20, inline_ms=0))
    first = asyncio.ensure_future(pool.predict(b"", deadline_s=LONG_S))
    await begun(held)
    others = [asyncio.ensure_future(pool.predict(b"", deadline_s=LONG_S)) for _ in range(6)]
    await asyncio.sleep(0)
    held.gate.set()
    await asyncio.gather(first, *others)
    await pool.close()
    assert held.batches == [4, 2]
    assert pool.counts.batches == {1: 1, 4: 1, 2: 1}


async def test_worker_waits_for_a_batch_no_longer_than_it_is_told() -> None:
    held = opened()
    pace = Pace(item_s=0.001, batch=4, pays_from=2)
    settings = PoolSettings(workers=1, inline_ms=0, max_wait_ms=10_000)
    pool = await Pool.open(servable("a", held, pace=pace), settings)
    # Four come one after another: the worker waits for the fourth, and not for the ten seconds to pass.
    made = await asyncio.gather(*(pool.predict(b"", deadline_s=5.0) for _ in range(4)))
    await pool.close()
    assert (len(made), held.batches) == (4, [4])


# ---- proving


def proven(bundle: Any, **limits: Any) -> Servable:
    predictor = Predictor(bundle, bundle.manifest.variants[0])
    try:
        return prove(bundle, predictor, **limits)
    finally:
        predictor.close()


def test_variant_for_one_asker_alone_is_proven_too() -> None:
    good, bad = as_bundle(make_parts()), as_bundle(make_parts(damage=Damage.WEIGHTS))
    with pytest.raises(Refused, match="golden samples"):
        prove(good, Predictor(good, good.manifest.variants[0]), alone=Predictor(bad, bad.manifest.variants[0]))


def test_bundle_whose_golden_samples_disagree_is_refused() -> None:
    with pytest.raises(Refused, match="golden samples"):
        proven(as_bundle(make_parts(damage=Damage.WEIGHTS)))


def test_proven_bundle_knows_its_outputs_and_its_pace() -> None:
    made = proven(as_bundle(make_parts()))
    assert made.outputs == {"logits": (1, 4), "features": (1, 4)}
    assert 0 < made.pace.item_s < 0.1


def test_model_with_a_fixed_batch_of_one_is_not_batched() -> None:
    assert proven(as_bundle(make_parts()), max_batch=4).open_many is None


def test_model_that_reads_its_weights_once_a_run_is_batched_and_never_beyond_the_time_a_run_may_take() -> None:
    bundle = as_bundle(make_parts().with_model(wide_quadrants(quadrant_weights(), width=1024, layers=2)))
    pace = proven(bundle, max_batch=8).pace
    assert pace.batch in (4, 8)
    assert 2 <= pace.pays_from < pace.batch
    assert proven(bundle, max_batch=8, max_run_s=1e-6).open_many is None


def test_model_that_computes_each_input_by_itself_is_not_batched() -> None:
    parts = make_parts().with_model(batchable_slow_quadrants(quadrant_weights(), work=12))
    assert proven(as_bundle(parts), max_batch=4).open_many is None


# Per input 1.0; what a run of the size took, and which size is to be chosen.
CHOICES = {
    "weights are read once a run": ({2: 1.03, 4: 1.04, 8: 1.29, 16: 1.93, 32: 3.3}, 8),
    "each row costs the same": ({2: 2.0, 4: 4.0, 8: 8.0, 16: 16.0, 32: 32.0}, None),
    "a little less than so many": ({2: 1.9, 4: 3.6, 8: 7.0, 16: 14.0, 32: 28.0}, None),
    "only the largest that was tried": ({2: 2.1, 4: 3.9, 8: 3.9}, 8),
    "a small one": ({2: 1.1, 4: 3.9, 8: 7.9, 16: 15.9, 32: 31.0}, 2),
    "none could be run": ({}, None),
}


@pytest.mark.parametrize(("run_s", "size"), CHOICES.values(), ids=CHOICES)
def test_size_is_chosen_that_answers_few_and_many_soonest(run_s: dict[int, float], size: int | None) -> None:
    chosen = best_of([Batch(tried, took_s, 1.0) for tried, took_s in run_s.items()], sizes_up_to(32))
    assert (chosen.size if chosen else None) == size


@pytest.mark.parametrize(("most", "sizes"), [(1, ()), (2, (2,)), (3, (2, 3)), (8, (2, 4, 8)), (12, (2, 4, 8, 12))])
def test_sizes_that_are_tried_end_with_the_most_that_is_allowed(most: int, sizes: tuple[int, ...]) -> None:
    assert sizes_up_to(most) == sizes


async def test_askers_at_a_time_share_runs_and_each_gets_its_own_answer() -> None:
    weights = quadrant_weights(sharpness=4.0)  # unsure enough that no two images score the same
    bundle = as_bundle(make_parts(weights=weights).with_model(wide_quadrants(weights, width=1024, layers=2)))
    images = quadrant_images(64, seed=11)
    pool = await Pool.open(proven(bundle, max_batch=8), PoolSettings(workers=2, max_queue=64, inline_ms=0))
    made = await asyncio.gather(*(pool.predict(image, deadline_s=LONG_S) for image in images))
    await pool.close()
    assert [one.label for one in made] == [LABELS[index % 4] for index in range(64)]
    expected = weights.probabilities(images).max(axis=1)
    # float32 through 64 additions
    np.testing.assert_allclose([one.score for one in made], expected, atol=1e-5)
    assert len(set(expected.round(4))) > 48
    assert sum(size * runs for size, runs in pool.counts.batches.items()) == 64
    assert max(pool.counts.batches) > 1


def test_batched_answers_are_those_of_one_at_a_time() -> None:
    bundle = as_bundle(make_parts().with_model(batchable_quadrants(quadrant_weights())))
    single = Predictor(bundle, bundle.manifest.variants[0])
    many = BatchPredictor(bundle, bundle.manifest.variants[0], setting=Setting(), size=4)
    made = many.predict([IMAGES[0], b"no image", IMAGES[2]])
    assert isinstance(made[1], EdgeloopError)
    for index in (0, 2):
        one, alone = made[index], single.predict(IMAGES[index])
        assert isinstance(one, Prediction)
        assert one.label == alone.label
        # the same float32 sums in another order of additions
        assert one.score == pytest.approx(alone.score, abs=1e-6)
        assert one.novelty == pytest.approx(alone.novelty, abs=1e-4)
    tensors = [single.tensor(image) for image in IMAGES[:3]]
    for made_one, tensor in zip(many.run_tensors(tensors), tensors, strict=True):
        np.testing.assert_allclose(made_one["logits"], single.run_tensor(tensor)["logits"], atol=1e-5)
    many.close()
    single.close()


def test_batched_tensor_of_a_wrong_shape_is_refused() -> None:
    bundle = as_bundle(make_parts().with_model(batchable_quadrants(quadrant_weights())))
    many = BatchPredictor(bundle, bundle.manifest.variants[0], setting=Setting(), size=2)
    with pytest.raises(InvalidInput, match=r"\(1, 8, 8, 1\)"):
        many.run_tensors([np.zeros((1, 8, 8), np.float32)])
    many.close()


async def test_unproven_bundle_answers() -> None:
    bundle = as_bundle(make_parts())
    pool = await Pool.open(unproven(bundle, bundle.manifest.variants[0]), ONE_WORKER)
    assert (await pool.predict(IMAGES[3], deadline_s=LONG_S)).label == LABELS[3]
    await pool.close()
