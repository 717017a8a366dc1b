"""Digits by hand: a 28 x 28 grey image, as an array or as a PNG, to its label.

Source: LiteRT's Python guide and TensorFlow's tutorial on integer quantization, whose test loop scales the image,
divides by the input tensor's scale, adds its zero point and casts to its type.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def make(model: Path) -> Callable[[Pixels], int]:
    """From (28, 28) uint8, white on black, to the digit. model: a LiteRT file, quantized or float."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(model), num_threads=1)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero_point = taken["quantization"]

    def digit(image: Pixels) -> int:
        values: NDArray[Any] = image.astype(np.float32) / 255.0
        if scale:
            values = np.round(values / scale + zero_point)
        interpreter.set_tensor(taken["index"], values.reshape(taken["shape"]).astype(taken["dtype"]))
        interpreter.invoke()
        return int(interpreter.get_tensor(given["index"])[0].argmax())

    return digit


def make_from_png(model: Path) -> Callable[[bytes], int]:
    """The same from the bytes of an image file of any size."""
    import cv2

    digit = make(model)

    def read(encoded: bytes) -> int:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
        if image.shape != (28, 28):
            image = cv2.resize(image, (28, 28), interpolation=cv2.INTER_AREA)
        return digit(np.asarray(image, np.uint8))

    return read
