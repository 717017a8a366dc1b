"""The two models that are served: digits in int8 and MobileNetV2 in uint8, each with one real question."""

from pathlib import Path

import cv2
import numpy as np

from benchmarks.data import require
from benchmarks.hand.cases import digit_images
from benchmarks.photos import CAT, enlarged
from benchmarks.servers.peers import Served


def served_digits(assets: Path, model: Path) -> Served:
    """The first test image of MNIST, a seven. model: the LiteRT file of a digits bundle. Raises Absent."""
    ((image, label),) = digit_images(assets, 1)
    interpreter = _interpreter(model)
    taken = interpreter.get_input_details()[0]
    scale, zero_point = taken["quantization"]
    real = image.astype(np.float32) / 255.0
    stored = np.rint(real / scale + zero_point) if scale else real
    return Served("digits", model, image, stored.reshape(taken["shape"]).astype(taken["dtype"]), label)


def served_mobilenet(assets: Path) -> Served:
    """The cat. Which of the labels for cats is right is what the interpreter itself says of these pixels."""
    model = require(assets / "mobilenet" / "mobilenet_v2_1.0_224_quant.tflite")
    pixels = np.asarray(cv2.resize(enlarged(assets, CAT), (224, 224)), np.uint8)
    interpreter = _interpreter(model)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[np.newaxis])
    interpreter.invoke()
    scores = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
    return Served("mobilenet_v2", model, pixels, pixels[np.newaxis], int(scores.argmax()))


def _interpreter(model: Path):  # type: ignore[no-untyped-def]  # LiteRT has no types
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(require(model)), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter
