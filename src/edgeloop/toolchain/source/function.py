"""A Python function as a Model: whatever answers can teach, be checked against, and be compared."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.toolchain.source.model import Feeds, Format, Model, Run

Function = Callable[..., NDArray[Any] | Mapping[str, NDArray[Any]]]
"""Arrays (N, ...) in the order of the inputs, to the one output (N, ...), or to outputs by name."""


def wrap_function(
    fn: Function, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], name: str = "function"
) -> Model:
    """A function as a Model that has no file: it can be asked, not saved.

    inputs, outputs: shapes with batch axis 1; fn takes any batch size. What fn raises comes through. Raises
    InvalidInput, when it is asked, if an answer is not as `outputs` say.

    >>> pair = TensorSpec("x", (1, 2), "float32")
    >>> total = TensorSpec("sum", (1, 1), "float32")
    >>> model = wrap_function(lambda x: x.sum(axis=1, keepdims=True), [pair], [total])
    >>> model.scores(np.array([[1, 2], [3, 4]], np.float32)).tolist()
    [[3.0], [7.0]]
    """
    if not inputs or not outputs:
        raise InvalidInput(f"{name} has {len(inputs)} inputs and {len(outputs)} outputs; give at least one of each")
    return Model(
        name=name,
        format=Format.FUNCTION,
        native=fn,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        run=_runner(fn, tuple(inputs), tuple(outputs), name),
        data=b"",
    )


def _runner(fn: Function, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], name: str) -> Run:
    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        given = [np.asarray(feeds[spec.name], dtype=spec.dtype) for spec in inputs]
        answer = fn(*given)
        if not isinstance(answer, Mapping):
            if len(outputs) != 1:
                raise InvalidInput(f"{name} answered one array for {len(outputs)} outputs; return them by name")
            answer = {outputs[0].name: answer}
        return {spec.name: _as_declared(answer, spec, len(given[0]), name) for spec in outputs}

    return run


def _as_declared(answer: Mapping[str, NDArray[Any]], spec: TensorSpec, count: int, name: str) -> NDArray[Any]:
    if spec.name not in answer:
        raise InvalidInput(f"{name} answered {', '.join(answer)}; its output {spec.name!r} is missing")
    made = np.asarray(answer[spec.name])
    expected = (count, *spec.shape[1:])
    if made.shape != expected:
        raise InvalidInput(f"{name} answered {spec.name!r} as {made.shape}, expected {expected}")
    return made
