"""MLServer in a Python of its own: a custom runtime, as its documentation has one written for what it does not know.

`predict` speaks the Open Inference Protocol, in JSON alone: MLServer takes no binary tensors over HTTP, so the tensor
travels as base64 in a BYTES input, which is faster than a list of numbers. `raw` is its "custom handler": a route of
its own, bytes in and JSON out, run in the HTTP process; with workers, in as many threads, each with its own model,
since LiteRT lets go of the interpreter's lock while it runs. Batching stays off: the model takes one input at a time.
"""

import asyncio
import base64
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import Request, Response
from mlserver import MLModel
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput
from served_model import ServedModel

THREADS = "EDGELOOP_BENCH_THREADS"


class Runtime(MLModel):  # type: ignore[misc]  # MLServer is not in our Python
    """One model."""

    async def load(self) -> bool:
        """Once in each worker."""
        self._model = ServedModel()
        threads = int(os.environ[THREADS])
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(threads, initializer=self._load_own) if threads else None
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The Open Inference Protocol."""
        answer = self._model.answer(base64.b64decode(payload.inputs[0].data[0]))
        outputs = [
            ResponseOutput(name="label", shape=[1], datatype="INT64", data=[answer["label"]]),
            ResponseOutput(name="score", shape=[1], datatype="FP32", data=[answer["score"]]),
        ]
        return InferenceResponse(id=payload.id, model_name=self.name, outputs=outputs)

    @custom_handler(rest_path="/raw")
    async def raw(self, request: Request) -> Response:
        """The route of its own."""
        tensor = await request.body()
        if self._pool is None:
            answer = self._model.answer(tensor)
        else:
            answer = await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, tensor)
        return Response(json.dumps(answer, separators=(",", ":")), media_type="application/json")

    def _load_own(self) -> None:
        self._own.model = ServedModel()

    def _answer(self, tensor: bytes) -> dict[str, Any]:
        answer: dict[str, Any] = self._own.model.answer(tensor)
        return answer
