"""Versions at work in real processes of their own, for tests."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from builders import Parts, as_bundle, make_parts
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.prediction import Prediction
from edgeloop.device.exchange import Order
from edgeloop.device.isolated import Isolated
from edgeloop.device.worker import Late, Worker
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.sources.port import Frame

BLACK = np.zeros((8, 8), np.uint8)


def frame_of(image: NDArray[Any], name: str = "a") -> Frame:
    """As a camera gives it."""
    return Frame(name, image, 0.0, "image/raw")


def file_of(image: NDArray[Any], name: str = "a.png") -> Frame:
    """As a folder gives it."""
    return Frame(name, encode_png(image), 0.0, "image/png")


def with_model(model: bytes, *, engine: EngineName = EngineName.ONNXRUNTIME) -> Parts:
    """A bundle that is sound but for its model, which has no features."""
    parts = make_parts().with_model(model)
    tensors = {"image": "image", "logits": "logits"}
    variant = msgspec.structs.replace(parts.manifest.variants[0], engine=engine, tensors=tensors)
    output = msgspec.structs.replace(parts.manifest.output, features=None)
    return parts.changed(variants=(variant,), output=output, reference=None)


class Room:
    """A folder with a shelf, and the versions that are at work from it."""

    def __init__(self, folder: Path) -> None:
        self.shelf = Shelf(folder / "bundles")
        self._folder = folder
        self._running: list[Worker | Isolated] = []

    def order(self, parts: Parts, *, cache: bool = False, answer_s: float = 60.0, variant: str = "") -> Order:
        """To answer with its first variant."""
        for sha256, data in parts.files.items():
            self.shelf.put(sha256, data)
        return Order(
            shelf=str(self.shelf.folder),
            variant=variant or parts.manifest.variants[0].file,
            races=str(self._folder / "races"),
            threads=None,
            cache=cache,
            load_s=120.0,
            answer_s=answer_s,
        )

    def worker(self, parts: Parts, **how: Any) -> Worker:
        """Its process."""
        made = Worker.start(self.order(parts, **how), as_bundle(parts).manifest_bytes)
        self._running.append(made)
        return made

    def isolated(self, parts: Parts, *, clock: Callable[[], float] | None = None, **how: Any) -> Isolated:
        """At work, with its process ready."""
        bundle, order = as_bundle(parts), self.order(parts, **how)
        timed = {} if clock is None else {"clock": clock}
        made = Isolated(
            bundle, bundle.manifest.variants[0], lambda: Worker.start(order, bundle.manifest_bytes), **timed
        )
        made.load()
        self._running.append(made)
        return made

    def close(self) -> None:
        """End them all."""
        for one in self._running:
            one.end() if isinstance(one, Worker) else one.close()


@contextmanager
def room(folder: Path) -> Iterator[Room]:
    """See Room."""
    made = Room(folder)
    try:
        yield made
    finally:
        made.close()


def caught_up(worker: Worker) -> Prediction:
    """What it says to the frame that it was late with, waited for."""
    while True:
        try:
            return worker.catch_up(within_s=0.1)
        except Late:
            continue


def is_gone(pid: int) -> bool:
    """Whether no process has this number, not even a dead one that nobody has asked after."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
