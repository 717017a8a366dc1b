"""What the predictor asks of the way in: from what a person or sensor hands over to the engine's input buffer.

Neighbours: `front` chooses the implementation by modality: `pixels` for images, `sound`, `series`, `arrays`.
"""

import os
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import msgspec

if TYPE_CHECKING:
    # A device's agent hands files on to the process that answers, and leaves NumPy to that: 20 MB.
    import numpy as np
    from numpy.typing import NDArray

Source: TypeAlias = "bytes | str | os.PathLike[str] | NDArray[Any]"
"""An input as encoded bytes (of an image, a WAV file, a CSV table), as a path to such a file, or as an array.

Arrays: pixels of (H, W), (H, W, 1) or (H, W, 3) in RGB order, uint8; samples of a sound (N,), int16 or float in -1..1,
at the rate that the manifest states; rows of a series (N, channels); or, for tensor bundles, the input without its
batch axis.
"""


class Geometry(msgspec.Struct, frozen=True):
    """Where a model's pixels lie in the original image: x there = (x here - left) / scale_x; y likewise.

    width_px, height_px: of the original image, after its EXIF orientation.
    """

    width_px: int
    height_px: int
    scale_x: float = 1.0
    scale_y: float = 1.0
    left: float = 0.0
    top: float = 0.0


class Front(Protocol):
    """The manifest's preprocessing for one variant's input tensor. Not thread-safe."""

    def write(self, source: Source, buffer: "NDArray[Any]") -> Geometry | None:
        """Prepare one input and write it into the engine's buffer, quantized as the tensor stores it.

        Returns the geometry of an image, else None. Raises InvalidInput, NotFound or Corrupt if the source cannot be
        used; the buffer's content is then undefined.
        """
        ...

    def tensor(self, source: Source) -> "NDArray[np.float32]":
        """The same by the plain path, step by step as written: real values, float32 of the manifest's input shape.

        `write` gives what this gives, quantized: bit for bit in integers.
        """
        ...
