"""What models are converted to; apart from the converters, so that naming one loads none of them."""

from enum import StrEnum


class Target(StrEnum):
    """What to convert to."""

    LITERT = "litert"
    ONNX = "onnx"
    OPENVINO = "openvino"
    MCU = "mcu"
