"""What the demo's cameras see: digits that nobody trained on, and one camera that is mounted wrong."""

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgeloop.bundle.durable import write_durable
from edgeloop.runtime.input.images import encode_png
from edgeloop.toolchain.data.dataset import Part

_TURN_DEGREES = 20.0
_NOISE_STD = 20.0


def drifted(images: NDArray[np.uint8], *, seed: int) -> NDArray[np.uint8]:
    """The same scenes through a camera that is turned by 20°, inverts, and is noisy. images: (N, H, W)."""
    rng = np.random.default_rng(seed)
    _, height, width = images.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), _TURN_DEGREES, 1.0)
    turned = np.stack([cv2.warpAffine(image, turn, (width, height)) for image in images])
    noisy = 255.0 - turned + rng.normal(0.0, _NOISE_STD, turned.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def put_before(spool: Path, images: NDArray[np.uint8], *, prefix: str) -> dict[str, int]:
    """Write frames into a camera's folder; returns their sizes in bytes by name."""
    sizes = {}
    for index, image in enumerate(images):
        name = f"{prefix}-{index:05d}.png"
        data = encode_png(image)
        write_durable(spool / name, data)
        sizes[name] = len(data)
    return sizes


@dataclass
class Camera:
    """One device of the demo. via: "node" or "cloud". truth: label by frame; sizes: bytes by frame."""

    device_id: str
    via: str
    engine: str
    is_drifted: bool
    spool: Path
    now: Part
    later: Part
    truth: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def first_half(self) -> Part:
        """What it sees until the cloud is about to die."""
        return self.now.take(len(self.now) // 2)

    @property
    def second_half(self) -> Part:
        """What it sees from then on."""
        half = len(self.now) // 2
        return Part(self.now.inputs[half:], self.now.labels[half:])

    def show(self, part: Part, names: tuple[str, ...], *, prefix: str) -> None:
        """Put frames before the camera."""
        sizes = put_before(self.spool, part.inputs, prefix=prefix)
        self.sizes |= sizes
        self.truth |= {name: names[label] for name, label in zip(sizes, part.labels, strict=True)}
