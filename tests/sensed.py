"""Versions that take pictures, sounds, series or rows, and a device's loop around them, for tests of what it senses.

All of them say which half of their input is the larger one on average: its first or its second numbers; of a picture
the upper or the lower half.
"""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torture.here import Here

from builders import GOLDEN_COUNT, Parts, as_bundle, make_parts
from edgeloop.backoff import Backoff
from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.manifest import InputSpec, Manifest, Modality
from edgeloop.contracts.messages import Alert, Reading, Sample
from edgeloop.contracts.output import Activation, Classification, Smoothing
from edgeloop.contracts.preprocess import Grey, Interpolation, Resize, Scale, Step, Window
from edgeloop.device.config import SelectConfig
from edgeloop.device.infer import InferenceLoop
from edgeloop.device.record import Record
from edgeloop.device.select import Selector
from edgeloop.device.sense import Senses, opener, resume_after, takes_the_same
from edgeloop.device.slots import Slot, Slots
from edgeloop.device.watch import Watch
from edgeloop.runtime.predictor import Predictor
from edgeloop.runtime.sources.port import FrameSource
from edgeloop.transport.keep import Keep
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.worth import Bounds

LABELS = ("first", "second")
RATE_HZ = 8000
SOUND_WINDOW = Window(length=400, hop=400)
SERIES_WINDOW = Window(length=4, hop=2)
NOTHING = SelectConfig(unsure_share=0.0, novel_share=0.0, audit_share=0.0)
EVERYTHING = SelectConfig(unsure_share=0.0, novel_share=0.0, audit_share=1.0)
_TIMEOUT_S = 30.0


def pictures(*, smoothing: Smoothing | None = None) -> Predictor:
    """Takes pictures of any size."""
    return _predictor(picture_parts(smoothing=smoothing))


def sounds(window: Window = SOUND_WINDOW) -> Predictor:
    """Takes windows of 50 ms at 8 kHz."""
    spec = InputSpec("x", Modality.SOUND, (1, window.length), "nt", (-1.0, 1.0), rate_hz=RATE_HZ)
    return _predictor(_parts(spec, (window,)))


def series(window: Window = SERIES_WINDOW) -> Predictor:
    """Takes four rows of x and y at a time, every two rows."""
    spec = InputSpec("x", Modality.SERIES, (1, window.length, 2), "ntc", (-1.0, 1.0), channels=("x", "y"))
    return _predictor(_parts(spec, (window,)))


def rows() -> Predictor:
    """Takes rows of four numbers, each an input."""
    return _predictor(row_parts())


class Device:
    """A loop on a thread of its own over what `source` names, with an outbox in `folder`; a context.

    opened: as Senses takes it, instead of the device's own way to open the source.
    """

    def __init__(
        self,
        folder: Path,
        source: str,
        predictor: Predictor | None,
        *,
        select: SelectConfig = NOTHING,
        opened: Callable[[Manifest, str], FrameSource] | None = None,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    ) -> None:
        self.outbox = Outbox(folder / "outbox.db", "camera-1", bounds=bounds)
        self.record = Record(self.outbox)
        self._keep = Keep(folder / "device.db")
        self.slots = Slots()
        self.senses = Senses(
            source,
            opened or opener(source),
            self.slots,
            backoff=Backoff(first_s=0.02, longest_s=0.05, draw=lambda: 1.0),
            after=resume_after(source, self._keep, self.outbox),
        )
        selector = Selector(select, rng=random.Random(0))
        self.loop = InferenceLoop(self.senses, selector, self.record, shadow_share=1.0, seed=0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.loop.run, args=(self._stop,), daemon=True)
        if predictor is not None:
            self.run(predictor)

    def __enter__(self) -> "Device":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(_TIMEOUT_S)
        assert not self._thread.is_alive(), "the loop did not stop"
        self.outbox.close()
        self._keep.close()

    def run(self, predictor: Predictor, *, shadow: Predictor | None = None) -> Watch:
        """Make this version the active one, on watch."""
        watch = Watch(compares=shadow is None or takes_the_same(shadow.manifest, predictor.manifest))
        old = None if shadow is None else Here(shadow)
        self.slots.put(Slot(Here(predictor), shadow=old, watch=watch))
        return watch

    def readings(self) -> list[Reading]:
        """So far."""
        return [event.body for event in self.outbox.events() if isinstance(event.body, Reading)]

    def samples(self) -> list[Sample]:
        """So far."""
        return [event.body for event in self.outbox.events() if isinstance(event.body, Sample)]

    def alerts(self) -> list[Alert]:
        """So far."""
        return [event.body for event in self.outbox.events() if isinstance(event.body, Alert)]

    def until(self, is_true: Callable[[], object], what: str) -> None:
        """Look again and again, with an end."""
        end_s = time.monotonic() + _TIMEOUT_S
        while not is_true():
            assert time.monotonic() < end_s, (
                f"{what} did not come about; {self.senses.health()}, {self.loop.error_reason}"
            )
            self._stop.wait(0.01)

    def until_read(self, count: int) -> list[Reading]:
        """The readings, once there are so many."""
        self.until(lambda: self.loop.readings >= count, f"reading {count} times")
        return self.readings()


def picture_parts(*, smoothing: Smoothing | None = None) -> Parts:
    """The version that takes pictures of any size, without golden samples of its own."""
    spec = InputSpec("x", Modality.IMAGE, (1, 8, 8, 1), "nhwc", (0.0, 1.0))
    return _parts(spec, (Grey(), Resize(8, 8, Interpolation.AREA), Scale(factor=1 / 255)), smoothing=smoothing)


def row_parts() -> Parts:
    """The version that takes rows, likewise."""
    return _parts(InputSpec("x", Modality.TENSOR, (1, 4), "nc", (-1.0, 1.0)), ())


def sound_parts() -> Parts:
    """The version that takes sounds, with golden samples and the answers that NumPy gives in float64."""
    spec = InputSpec("x", Modality.SOUND, (1, SOUND_WINDOW.length), "nt", (-1.0, 1.0), rate_hz=RATE_HZ)
    golden = np.stack([sound(LABELS[index % 2], seed=index) for index in range(GOLDEN_COUNT)])
    halves = golden.astype(np.float64).reshape(GOLDEN_COUNT, 2, -1).mean(axis=2) / 32768
    raised = np.exp(4 * halves)
    answers = (raised / raised.sum(axis=1, keepdims=True)).astype(np.float32)
    parts = _parts(spec, (SOUND_WINDOW,))
    parts = parts.with_file(parts.manifest.golden.inputs, to_npy(golden))
    return parts.with_file(parts.manifest.golden.outputs, to_npy(answers))


def sound(*louder: str, seed: int = 5) -> NDArray[np.int16]:
    """Windows of 400 samples each, of which the first or the second half lies higher."""
    rng = np.random.default_rng(seed)
    made = []
    for which in louder:
        window = rng.integers(-2000, 2000, SOUND_WINDOW.length)
        window[slice(0, 200) if which == LABELS[0] else slice(200, 400)] += 9000
        made.append(window)
    return np.concatenate(made).astype(np.int16)


def _predictor(parts: Parts) -> Predictor:
    bundle = as_bundle(parts)
    return Predictor(bundle, bundle.manifest.variants[0])


def _parts(spec: InputSpec, steps: tuple[Step, ...], *, smoothing: Smoothing | None = None) -> Parts:
    parts = make_parts().with_model(_halves(spec.shape))
    variant = msgspec.structs.replace(parts.manifest.variants[0], tensors={"x": "x", "y": "y"})
    output = Classification(scores="y", activation=Activation.SOFTMAX, smoothing=smoothing)
    return parts.changed(
        labels=LABELS, input=spec, preprocess=steps, output=output, variants=(variant,), reference=None
    )


def _halves(shape: tuple[int, ...]) -> bytes:
    """ONNX: x of this shape to y (1, 2), four times the mean of the first and of the second half of its numbers."""
    count = int(np.prod(shape))
    means = np.zeros((count, 2), np.float32)
    means[: count // 2, 0] = means[count // 2 :, 1] = 8.0 / count
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "means"], ["y"])],
        "halves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 2))],
        [numpy_helper.from_array(means, "means")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())
