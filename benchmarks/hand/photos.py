"""What is on a photo, by hand: a JPEG to one of 1,001 labels of ImageNet, by a quantized MobileNet.

Source: label_image.py of LiteRT's examples (tensorflow/lite/examples/python), with OpenCV in PIL's place, as its many
copies have it: decode, resize to the input's size, no crop, bytes as they are for a quantized model.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np


def make(model: Path, labels: Path) -> Callable[[bytes], str]:
    """From a JPEG's bytes to the label. model: takes (1, height, width, 3) uint8. labels: a text file, one a line."""
    import cv2
    from ai_edge_litert.interpreter import Interpreter

    names = labels.read_text(encoding="utf-8").splitlines()
    interpreter = Interpreter(str(model), num_threads=1)
    interpreter.allocate_tensors()
    taken, given = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    _, height, width, _ = taken["shape"]

    def label(jpeg: bytes) -> str:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        image = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), (int(width), int(height)))
        interpreter.set_tensor(taken["index"], np.expand_dims(image, 0))
        interpreter.invoke()
        return names[int(interpreter.get_tensor(given["index"])[0].argmax())]

    return label
