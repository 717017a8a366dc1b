"""The pool with a runner that a test holds by the hand, and with the real one."""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from builders import LABELS, Damage, as_bundle, make_parts, quadrant_images, quadrant_weights
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Refused, Unavailable
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.batched import BatchPredictor
from edgeloop.runtime.engines.port import Setting
from edgeloop.runtime.pool import Overloaded, Pool, PoolSettings
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.servable import Pace, Servable, prove, unproven
from serving import batchable_quadrants

pytestmark = pytest.mark.anyio

IMAGES = quadrant_images(8, seed=3)
MANIFEST = make_parts().manifest
LONG_S = 30.0
ONE_WORKER = PoolSettings(workers=1, max_queue=4, inline_ms=0)


@dataclass
class Held:
    """What the runners of one servable did, and a gate that they wait at. batches: sizes of runs of several."""

    gate: threading.Event = field(default_factory=threading.Event)
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    asked: list[Any] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    fail: Exception | None = None
    burn_s: float = 0.0


class HeldRunner:
    """The ports Runner and ManyRunner: answers with its name once the gate is open."""

    size = 4

    def __init__(self, name: str, held: Held) -> None:
        self._name = name
        self._held = held
        held.opened += 1

    def predict(self, source: Any) -> Any:
        if isinstance(source, list):
            self._held.batches.append(len(source))
            return [self.predict(one) for one in source]
        self._held.started.release()
        assert self._held.gate.wait(timeout=20)
        self._held.asked.append(source)
        until_s = time.thread_time() + self._held.burn_s
        while time.thread_time() < until_s:
            pass
        if self._held.fail is not None:
            raise self._held.fail
        return answer(self._name)

    def run_tensor(self, tensor: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        self._held.asked.append(tensor)
        return {"twice": 2 * tensor}

    def run_tensors(self, tensors: Sequence[NDArray[np.float32]]) -> list[dict[str, NDArray[np.float32]]]:
        return [self.run_tensor(tensor) for tensor in tensors]

    def close(self) -> None:
        self._held.closed += 1


def answer(name: str) -> Prediction:
    return Prediction(
        label=name, score=1.0, margin=1.0, top=(), latency_ms=0.0, bundle=name, engine="none", precision="none"
    )


def servable(name: str, held: Held, *, pace: Pace | None = None) -> Servable:
    made = Servable(
        manifest=MANIFEST,
        engine="none",
        precision="none",
        setting=Setting(),
        pace=pace or Pace(item_s=0.01),
        outputs={},
        open=lambda: HeldRunner(name, held),
    )
    return replace(made, open_many=lambda: HeldRunner(name, held)) if made.pace.batch else made


def opened() -> Held:
    held = Held()
    held.gate.set()
    return held


async def begun(held: Held, count: int = 1) -> None:
    for _ in range(count):
        assert await asyncio.to_thread(held.started.acquire, timeout=20)


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


async def test_question_whose_asker_went_away_is_not_computed() -> None:
    held = Held()
    pool = await Pool.open(servable("a", held), ONE_WORKER)
    first = asyncio.ensure_future(pool.predict(b"first", deadline_s=LONG_S))
    await begun(held)
    gone = asyncio.ensure_future(pool.predict(b"gone", deadline_s=LONG_S))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    held.gate.set()
    await first
    await pool.close()
    assert held.asked == [b"first"]


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
    before = set(threading.enumerate())
    pool = await Pool.open(servable("0", opened()), PoolSettings(workers=2, inline_ms=0))
    for number in range(20):
        await pool.swap(servable(str(number), opened()))
    await pool.close()
    workers = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("tiny@")]
    for thread in workers:  # each has told its last and is about to end
        thread.join(timeout=20)
    assert not any(thread.is_alive() for thread in workers)


# ---- batches


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


def proven(bundle: Any, *, max_batch: int = 1) -> Servable:
    predictor = Predictor(bundle, bundle.manifest.variants[0])
    try:
        return prove(bundle, predictor, max_batch=max_batch)
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
