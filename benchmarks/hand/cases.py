"""The works that are timed end to end: what goes in, the loop by hand, and what a right answer is.

A case gives inputs with what is known of them, so that each loop, theirs and ours, is held to the same truth before
it is timed: labels of test sets that no loop has seen, and what a person sees on a photo.
"""

import gzip
import io
import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.data import require
from benchmarks.hand import digits, faces, keywords, photos
from benchmarks.photos import CAT, PERSON, camera_jpeg

CATS = frozenset({"tabby, tabby cat", "tiger cat", "Egyptian cat"})
UNIFORMS = frozenset({"military uniform", "suit, suit of clothes"})
"""Labels of ImageNet for what is on the two photos."""

FACE_SHARES = (0.348, 0.208, 0.688, 0.558)
"""Where the face is on grace_hopper.bmp, drawn by eye: left, top, right, bottom in shares of the sides."""

_LEAST_IOU = 0.7
_DIGITS, _CLIPS = 100, 100


@dataclass(frozen=True)
class Question:
    """One input, and whether an answer to it is right."""

    given: Any
    is_right: Callable[[Any], bool]


@dataclass(frozen=True)
class Case:
    """One work. loop: the body by hand, ready to be timed. least_right: the share of right answers that a sound loop
    reaches; below 1.0 where the model itself errs."""

    name: str
    loop: Callable[[Any], Any]
    questions: Sequence[Question]
    least_right: float


def share_right(loop: Callable[[Any], Any], questions: Sequence[Question]) -> float:
    """0 to 1: how many of the questions a loop answers as is known to be right."""
    return sum(question.is_right(loop(question.given)) for question in questions) / len(questions)


def digits_from_array(assets: Path, model: Path) -> Case:
    """(28, 28) uint8 to the digit. model: the LiteRT file of a digits bundle. Raises Absent, as all of these."""
    questions = [Question(image, _is(int(label))) for image, label in digit_images(assets)]
    return Case("digits, array", digits.make(model), questions, least_right=0.9)


def mobilenet_v1(assets: Path) -> Case:
    """A camera's JPEG to a label, MobileNetV1 0.25 at 128 pixels, which takes the noisy uniform for a gown."""
    return _photos(assets, "MobileNetV1 0.25", "mobilenet_v1_0.25_128_quant.tflite", least_right=0.5)


def mobilenet_v2(assets: Path) -> Case:
    """A camera's JPEG to a label, MobileNetV2 at 224 pixels."""
    return _photos(assets, "MobileNetV2", "mobilenet_v2_1.0_224_quant.tflite", least_right=1.0)


def ultraface(assets: Path) -> Case:
    """A camera's JPEG to boxes in its own pixels, each beginning left, top, right, bottom; the cat has none."""
    model = require(assets / "ultraface" / "version-RFB-320_without_postprocessing.tflite")
    person, cat = camera_jpeg(assets, PERSON), camera_jpeg(assets, CAT)
    height, width = cv2.imdecode(np.frombuffer(person, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    left, top, right, bottom = FACE_SHARES
    expected = (left * width, top * height, right * width, bottom * height)
    return Case(
        "UltraFace",
        faces.make(model),
        [Question(person, lambda found: _is_one_face(found, expected)), Question(cat, lambda found: not found)],
        least_right=1.0,
    )


def keyword_spotting(assets: Path) -> Case:
    """A second of raw sound to a word, MLPerf Tiny's int8 model."""
    loop = keywords.make(require(assets / "mlperf_tiny" / "kws_ref_model.tflite"))
    samples, labels = raw_clips(assets, _CLIPS)
    asked = [Question(clip, _is(keywords.LABELS[label])) for clip, label in zip(samples, labels, strict=True)]
    return Case("keyword spotting", loop, asked, least_right=0.85)


def digit_images(assets: Path, count: int = _DIGITS) -> list[tuple[NDArray[np.uint8], int]]:
    """The first test images of MNIST, (28, 28) uint8 each, with their labels."""
    folder = assets / "mnist"
    images = gzip.decompress(require(folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress(require(folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    pixels = np.frombuffer(images, np.uint8, count * 28 * 28, offset=16).reshape(count, 28, 28)
    return [(pixels[index].copy(), labels[8 + index]) for index in range(count)]


def raw_clips(assets: Path, count: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """The first clips of Speech Commands: (count, 16000) int16 and their labels."""
    packed = require(assets / "speech_commands" / "td_samples_16k_int16.npz.xz").read_bytes()
    with np.load(io.BytesIO(lzma.decompress(packed))) as stored:
        return stored["wav"][:count], stored["y"][:count]


def as_png(pixels: NDArray[np.uint8]) -> bytes:
    """Grey pixels as a PNG."""
    return bytes(cv2.imencode(".png", pixels)[1])


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes of left, top, right, bottom."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def _photos(assets: Path, name: str, file: str, *, least_right: float) -> Case:
    folder = assets / "mobilenet"
    loop = photos.make(require(folder / file), require(folder / "imagenet_labels.txt"))
    asked = [
        Question(camera_jpeg(assets, CAT), lambda label: label in CATS),
        Question(camera_jpeg(assets, PERSON), lambda label: label in UNIFORMS),
    ]
    return Case(name, loop, asked, least_right=least_right)


def _is(expected: Any) -> Callable[[Any], bool]:
    return lambda answer: bool(answer == expected)


def _is_one_face(found: Sequence[Sequence[float]], expected: Sequence[float]) -> bool:
    return len(found) == 1 and iou(found[0], expected) >= _LEAST_IOU
