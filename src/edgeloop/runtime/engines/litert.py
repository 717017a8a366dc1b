"""LiteRT behind the engine port."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.runtime.engines.feeds import check_feeds
from edgeloop.runtime.engines.port import Tensors, TensorSpec
from edgeloop.runtime.engines.quiet import without_native_chatter


class LiteRtEngine:
    """A .tflite model on LiteRT's interpreter. Tensor names are those of the default signature where there is one."""

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        interpreter = _interpreter(model, threads)
        self._interpreter = interpreter
        self._input_index, self._output_index = _names(interpreter)
        details = {d["index"]: d for d in (*interpreter.get_input_details(), *interpreter.get_output_details())}
        self.inputs = tuple(_spec(name, details[index]) for name, index in self._input_index.items())
        self.outputs = tuple(_spec(name, details[index]) for name, index in self._output_index.items())

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Execute once; see Engine.run."""
        if self._interpreter is None:
            raise InvalidInput("this engine was closed; load the model again")
        check_feeds(feeds, self.inputs)
        for name, index in self._input_index.items():
            self._interpreter.set_tensor(index, feeds[name])
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index) for name, index in self._output_index.items()}

    def close(self) -> None:
        """Give up memory."""
        self._interpreter = None


def _interpreter(model: bytes, threads: int) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise Unavailable(
            f"LiteRT is not installed here ({error}); install it with: pip install ai-edge-litert"
        ) from error
    if model[4:8] != b"TFL3":
        raise InvalidInput(f"this is no LiteRT model: bytes 4 to 8 are {model[4:8]!r}, expected b'TFL3'")
    try:
        with without_native_chatter():
            interpreter = Interpreter(model_content=model, num_threads=threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InvalidInput(f"LiteRT cannot load this model: {error}") from error
    return interpreter


def _names(interpreter: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Tensor index by name, from the one signature; else from the tensors' own names."""
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        inputs = {name: int(detail["index"]) for name, detail in runner.get_input_details().items()}
        outputs = {name: int(detail["index"]) for name, detail in runner.get_output_details().items()}
        return inputs, outputs
    return (
        {str(detail["name"]): int(detail["index"]) for detail in interpreter.get_input_details()},
        {str(detail["name"]): int(detail["index"]) for detail in interpreter.get_output_details()},
    )


def _spec(name: str, detail: dict[str, Any]) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    shape = tuple(int(size) for size in detail["shape"])
    return TensorSpec(name, shape, np.dtype(detail["dtype"]).name, float(scale), int(zero_point))
