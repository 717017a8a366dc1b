"""A model that a test holds by the hand: its answers wait at a gate, and it counts what is opened and closed."""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builders import make_parts
from edgeloop.contracts.prediction import Prediction
from edgeloop.runtime.engines.port import Setting
from edgeloop.runtime.servable import Pace, Servable

MANIFEST = make_parts().manifest


@dataclass
class Held:
    """What the runners of one servable did, and a gate that they wait at. batches: sizes of runs of several.

    loads: loading waits for it. fail_load, fail, fail_close: what loading the second, answering and closing raise.
    """

    gate: threading.Event = field(default_factory=threading.Event)
    loads: threading.Event = field(default_factory=lambda: _set(threading.Event()))
    loading: threading.Event = field(default_factory=threading.Event)
    started: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    asked: list[Any] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    opened: int = 0
    closed: int = 0
    fail_load: Exception | None = None
    fail: Exception | None = None
    fail_close: Exception | None = None
    burn_s: float = 0.0


class HeldRunner:
    """The ports Runner and ManyRunner: answers with its name once the gate is open."""

    size = 4

    def __init__(self, name: str, held: Held) -> None:
        self._name = name
        self._held = held
        held.loading.set()
        assert held.loads.wait(timeout=20)
        if held.opened and held.fail_load is not None:
            raise held.fail_load
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
        if self._held.fail_close is not None:
            raise self._held.fail_close


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
    """One whose gate is open."""
    held = Held()
    held.gate.set()
    return held


def stalled() -> Held:
    """One that does not load until it is let."""
    held = opened()
    held.loads.clear()
    return held


async def is_loading(held: Held) -> None:
    """Until its first runner is being loaded."""
    assert await asyncio.to_thread(held.loading.wait, timeout=20)


async def begun(held: Held, count: int = 1) -> None:
    """Until so many answers were begun."""
    for _ in range(count):
        assert await asyncio.to_thread(held.started.acquire, timeout=20)


def _set(event: threading.Event) -> threading.Event:
    event.set()
    return event
