"""The model as every peer serves it: LiteRT's interpreter on one thread, from the input tensor's bytes to the answer.

EDGELOOP_BENCH_MODEL in the environment names the file. The input travels as the tensor stores it, so no server has
anything to decode but its own envelope.
"""

import os
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

MODEL = "EDGELOOP_BENCH_MODEL"


class ServedModel:
    """Loaded once for each worker; not to be shared by threads."""

    def __init__(self) -> None:
        self._interpreter = Interpreter(os.environ[MODEL], num_threads=1)
        self._interpreter.allocate_tensors()
        taken, given = self._interpreter.get_input_details()[0], self._interpreter.get_output_details()[0]
        self._taken, self._given = taken["index"], given["index"]
        self._shape, self._dtype = taken["shape"], taken["dtype"]
        self._scale, self._zero_point = given["quantization"]

    def answer(self, tensor: bytes) -> dict[str, Any]:
        """{"label": index of the best score, "score": it, as a real number}."""
        values = np.frombuffer(tensor, self._dtype).reshape(self._shape)
        self._interpreter.set_tensor(self._taken, values)
        self._interpreter.invoke()
        scores = self._interpreter.get_tensor(self._given)[0]
        best = int(scores.argmax())
        return {"label": best, "score": (int(scores[best]) - self._zero_point) * self._scale}
