"""A version at work in the process that asks it: what a process of its own adds is tested elsewhere, and takes time.

For tests and for the bench: implements `device.slots.AtWork` and `device.accept.PutToWork`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from edgeloop.bundle.archive import Bundle
from edgeloop.contracts.manifest import Variant
from edgeloop.contracts.prediction import Prediction
from edgeloop.device.exchange import Order

if TYPE_CHECKING:
    from edgeloop.runtime.predictor import Predictor
    from edgeloop.runtime.sources.port import Frame


class Here:
    """A predictor at work. is_closed: it was let go of."""

    def __init__(self, predictor: "Predictor", *, cache: bool = True) -> None:
        from edgeloop.runtime.answering import Answering  # brings NumPy

        self.manifest = predictor.manifest
        self.variant = predictor.variant
        self.is_raced = predictor.race is not None
        self.setting = str(predictor.setting)
        self.is_closed = False
        self._answering = Answering(predictor, cache=cache)

    @property
    def is_late(self) -> bool:
        """See AtWork: never."""
        return False

    def answer(self, frame: "Frame", *, within_s: float | None = None) -> Prediction:
        """See AtWork."""
        assert not self.is_closed, "a version that was let go of is asked"
        return self._answering.answer(frame)

    def catch_up(self) -> Prediction:
        """See AtWork."""
        raise AssertionError("it is never late")

    def forget(self) -> None:
        """See AtWork."""
        self._answering.forget()

    def close(self) -> None:
        """See AtWork."""
        self.is_closed = True


def put_to_work_here(order: Order, bundle: Bundle, variant: Variant) -> Here:
    """See PutToWork."""
    from edgeloop.runtime.load import load_fastest

    predictor = load_fastest(bundle, [variant], threads=order.threads, race_s=0.0, folder=Path(order.races))
    return Here(predictor, cache=order.cache)
