"""Arrays that a program hands over: each an input of its own, or pieces of one sound or series.

Neighbours: `items` takes them from the program, `runtime.input.windows` cuts pieces that belong together.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from edgeloop.contracts.errors import InvalidInput
from edgeloop.runtime.sources.port import Arrays, Frame, FrameError

if TYPE_CHECKING:
    from numpy.typing import NDArray  # see input.port

Check = Callable[["NDArray[Any]"], "NDArray[Any]"]
"""A piece as it is to be taken. Raises InvalidInput if it cannot be."""


def each_a_frame(name: str, arrays: Arrays, now_s: Callable[[], float], *, media: str) -> Iterator[Frame | FrameError]:
    """Each array as an input; names are `name`#1, #2, ..."""
    for number, array in enumerate(arrays, start=1):
        if isinstance(array, FrameError):
            yield array
        else:
            yield Frame(f"{name}#{number:06d}", array, now_s(), media)


def pieces_of_one(
    name: str, arrays: Arrays, check: Check, now_s: Callable[[], float]
) -> "Iterator[NDArray[Any] | FrameError]":
    """Pieces that belong together. In place of one that cannot be used stands an error, named `name`#1, #2, ... by the
    piece: a gap in what they are pieces of.

    All between two gaps have the dtype of the first of them; another one is such an error, too.
    """
    dtype: Any = None
    for number, array in enumerate(arrays, start=1):
        made: NDArray[Any] | FrameError = array
        if not isinstance(array, FrameError):
            try:
                made = _checked(array, check, dtype)
            except InvalidInput as error:
                made = FrameError(f"{name}#{number:06d}", error, now_s())
        dtype = None if isinstance(made, FrameError) else made.dtype
        yield made


def _checked(array: "NDArray[Any]", check: Check, dtype: Any) -> "NDArray[Any]":
    made = check(array)
    if dtype not in (None, made.dtype):
        raise InvalidInput(
            f"a piece of {made.dtype} follows one of {dtype}; expected one dtype, since all pieces are one stream"
        )
    return made
