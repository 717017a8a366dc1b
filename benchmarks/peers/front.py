"""All the peers that quantize a trained classifier, on the same float model, calibration set and tuning set."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from benchmarks.contender import Contender
from benchmarks.data import Absent, Images, as_tensor
from benchmarks.peers import litert, nncf, onnxruntime, venv
from edgeloop.toolchain.convert.keras import export_keras
from edgeloop.toolchain.source.model import Format, Model


@dataclass(frozen=True)
class Floats:
    """The float model in the two formats that peers take."""

    litert: bytes
    onnx: bytes

    @classmethod
    def of(cls, model: Model) -> "Floats":
        """Exported from Keras."""
        return cls(export_keras(model, Format.LITERT), export_keras(model, Format.ONNX))


@dataclass(frozen=True)
class Missing:
    """A peer that gave no model, and why: it is not installed, or it failed."""

    name: str
    reason: str


def peers(floats: Floats, images: Images) -> Iterator[Contender | Missing]:
    """Each peer's model, one after the other."""
    calibration = images.calibration
    part = images.learn.validation
    tuning = as_tensor(part.inputs), part.labels
    makers: dict[str, Callable[[], Contender]] = {
        "ai-edge-quantizer int8": lambda: litert.static_int8(floats.litert, calibration),
        "ONNX Runtime static int8": lambda: onnxruntime.static_int8(floats.onnx, calibration),
        "NNCF int8 on OpenVINO": lambda: nncf.openvino_int8(floats.onnx, calibration),
        "NNCF int8 on ONNX": lambda: nncf.onnx_int8(floats.onnx, calibration),
        **{
            venv.TITLES[peer]: partial(venv.quantized_apart, peer, floats.onnx, calibration, tuning)
            for peer in venv.REQUIREMENTS
        },
    }
    for name, make in makers.items():
        yield _made(name, make)


def _made(name: str, make: Callable[[], Contender]) -> Contender | Missing:
    try:
        return make()
    except Absent as error:
        return Missing(name, str(error))
    except ImportError as error:
        return Missing(name, f"not installed: {error}")
    except Exception as error:  # noqa: BLE001 - a peer that breaks in its own way is a row; the others go on
        return Missing(name, f"failed: {type(error).__name__}: {str(error)[:300]}")
