"""LitServe in a Python of its own: `python litserve_server.py PORT WORKERS QUEUE`, QUEUE being plain or fast.

Its documentation: on a CPU as many workers as cores, as many HTTP processes as workers (the default), fast_queue
(ZeroMQ) for more than 100 requests a second; on two cores that is not always the faster one. The body is taken raw
through a FastAPI dependency, the type that `decode_request` asks for: of the ways in (JSON, form, pydantic, any type
of FastAPI's) the one with the least to do. Batching stays off: the model takes one input at a time, and with batches of
up to 16 digits, run one by one, it was a third slower at 8 clients.
"""

import sys
from typing import Annotated, Any

import litserve
from fastapi import Depends, Request
from served_model import ServedModel


async def raw_body(request: Request) -> bytes:
    """The body as it came."""
    return await request.body()


class Api(litserve.LitAPI):  # type: ignore[misc]  # LitServe is not in our Python
    """One model."""

    def setup(self, device: str) -> None:
        """Once in each worker."""
        self._model = ServedModel()

    def decode_request(self, request: Annotated[bytes, Depends(raw_body)]) -> bytes:
        """In the worker: nothing to do."""
        return request

    def predict(self, tensor: bytes) -> dict[str, Any]:
        """In the worker."""
        return self._model.answer(tensor)

    def encode_response(self, answer: dict[str, Any]) -> dict[str, Any]:
        """In the worker; it becomes JSON in the HTTP process."""
        return answer


if __name__ == "__main__":
    port, workers, queue = sys.argv[1:]
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=int(workers), fast_queue=queue == "fast")
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False, access_log=False)
