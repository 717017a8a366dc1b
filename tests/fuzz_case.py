"""One case of the fuzz test."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeloop.contracts.errors import EdgeloopError
from edgeloop.runtime.sources.port import Frame, FrameError


@dataclass(frozen=True)
class Case:
    """route: which way in. mutation: what was done to a sound input. data: the result, for those who look into it.

    run: gives an answer, or raises an EdgeloopError.
    """

    route: str
    mutation: str
    data: bytes
    run: Callable[[], object]


def by_file(path: Path, data: bytes, write: Callable[[Path], object]) -> None:
    """Answer a file that holds these bytes."""
    path.write_bytes(data)
    try:
        write(path)
    finally:
        path.unlink()


def take_frames(frames: Iterator[Frame | FrameError], write: Callable[..., object]) -> None:
    """Answer each frame of a stream to its end, as `runtime.streaming` does; then the first error is raised."""
    errors = []
    for frame in frames:
        if isinstance(frame, FrameError):
            errors.append(frame.error)
            continue
        try:
            write(frame.data)
        except EdgeloopError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def in_blocks(data: bytes, size: int) -> Iterator[bytes]:
    """The bytes as a pipe hands them over."""
    return (data[place : place + size] for place in range(0, len(data), size))
