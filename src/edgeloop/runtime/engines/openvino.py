"""OpenVINO behind the engine port, and its model as one file.

OpenVINO's IR is two files, a graph as XML and its weights; a variant is one. `.openvino` is a ZIP of exactly
`model.xml`, deflated, and `model.bin`, stored, in this order, with the earliest date that a ZIP can hold: the same
model gives the same bytes. Nothing in it names another file, and it is never unpacked to a disk.
"""

import io
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.runtime.engines.feeds import BoundEngine, require_batch
from edgeloop.runtime.engines.memory import aligned_array
from edgeloop.runtime.engines.port import CPU, Setting, TensorSpec
from edgeloop.runtime.engines.quiet import said
from edgeloop.runtime.engines.settings import DEFAULT

_GRAPH = "model.xml"
_WEIGHTS = "model.bin"
_MOST_GRAPH_BYTES = 64 * 1024 * 1024
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_CPU_DEVICE = "CPU"
_TELEMETRY = "openvino_telemetry"
_DTYPES = {"f32": "float32", "f64": "float64", "u8": "uint8", "i8": "int8", "i32": "int32", "i64": "int64"}


class OpenVinoEngine(BoundEngine):
    """An .openvino model on OpenVINO. A free leading axis is taken as `batch`, and a fixed one changed to it.

    setting.accelerator: CPU, or a device's name as in `list_devices`.
    """

    _failures = (RuntimeError,)

    def __init__(self, model: bytes, *, setting: Setting = DEFAULT, batch: int = 1) -> None:
        request = _request(model, setting, batch)
        compiled = request.get_compiled_model()
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)
        for specs in (self.inputs, self.outputs):
            _require_distinct(specs)
        require_batch(self.outputs, batch)
        # Arrays of ours as its tensors, so that it never copies and no view of freed memory is left after close.
        tensor = import_openvino().Tensor
        self.buffers = tuple(aligned_array(spec) for spec in self.inputs)
        self._answers = tuple(aligned_array(spec) for spec in self.outputs)
        for index, array in enumerate(self.buffers):
            request.set_input_tensor(index, tensor(array, shared_memory=True))
        for index, array in enumerate(self._answers):
            request.set_output_tensor(index, tensor(array, shared_memory=True))
        self._execute = partial(request.infer, share_outputs=True)


def pack_ir(xml: bytes, weights: bytes) -> bytes:
    """One .openvino file of an IR's graph and weights; the same parts give the same bytes.

    The graph is deflated because it is 10 to 20 times smaller so, and larger than a small model's weights; weights
    hardly shrink.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data, method in ((_GRAPH, xml, zipfile.ZIP_DEFLATED), (_WEIGHTS, weights, zipfile.ZIP_STORED)):
            member = zipfile.ZipInfo(name, _EARLIEST)
            member.create_system = 3  # else it tells on which system it was made
            archive.writestr(member, data, compress_type=method, compresslevel=9)
    return packed.getvalue()


def unpack_ir(model: bytes) -> tuple[bytes, bytes]:
    """The graph and the weights of an .openvino file. Raises InvalidInput if it is none or is damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            if names != [_GRAPH, _WEIGHTS]:
                raise InvalidInput(f"this is no OpenVINO model: it holds {names[:4]}, expected {[_GRAPH, _WEIGHTS]}")
            graph, weights = members
            if graph.file_size > _MOST_GRAPH_BYTES or weights.compress_type != zipfile.ZIP_STORED:
                raise InvalidInput(
                    f"this OpenVINO model would unfold to a graph of {graph.file_size} bytes (at most "
                    f"{_MOST_GRAPH_BYTES}) or has compressed weights; convert it again"
                )
            # A member is never read beyond the size that it declares.
            xml, data = archive.read(graph), archive.read(weights)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"this is no OpenVINO model: {error}; make one with 'edgeloop convert'") from error
    if not xml.lstrip().startswith((b"<?xml", b"<net")):
        # OpenVINO would try its other readers, and some of those follow names of files.
        raise InvalidInput(f"this is no OpenVINO model: its graph begins with {xml[:8]!r}, expected XML")
    return xml, data


def import_openvino() -> Any:
    """The package, with its telemetry off. Raises Unavailable if it is not installed."""
    try:
        with without_openvino_telemetry():
            import openvino
    except ImportError as error:
        raise Unavailable(
            f"OpenVINO is not installed here ({error}); install it with: pip install 'edgeloop[openvino]'"
        ) from error
    return openvino


@contextmanager
def without_openvino_telemetry() -> Iterator[None]:
    """While OpenVINO or NNCF is imported here, it takes its telemetry package for missing.

    Otherwise importing it sends an event to Google Analytics and leaves files in the home folder, unless the person
    knew to opt out; it has no switch of its own. Both look for the package once, when they are imported first.
    """
    modules: dict[str, Any] = sys.modules
    hidden = {name: modules.pop(name) for name in list(modules) if name.split(".")[0] == _TELEMETRY}
    modules[_TELEMETRY] = None  # Python's own way to say: this cannot be imported
    try:
        yield
    finally:
        del modules[_TELEMETRY]
        modules.update(hidden)


def list_devices() -> dict[str, str]:
    """The devices other than the CPU that OpenVINO finds here, each with its full name."""
    core = _core()
    try:
        names = [name for name in core.available_devices if name != _CPU_DEVICE]
        return {name: str(core.get_property(name, "FULL_DEVICE_NAME")) for name in names}
    except RuntimeError as error:
        raise Unavailable(f"OpenVINO cannot look for devices: {said(error)}") from error


@cache
def _core() -> Any:
    """OpenVINO's core, one a process: each keeps some kilobytes for good, and takes 2 ms to make."""
    return import_openvino().Core()


def _request(model: bytes, setting: Setting, batch: int) -> Any:
    xml, weights = unpack_ir(model)
    core = _core()
    device = _CPU_DEVICE if setting.accelerator == CPU else setting.accelerator
    try:
        network = core.read_model(model=xml, weights=weights)
        _fix_batch(network, batch)
    except RuntimeError as error:
        raise InvalidInput(f"OpenVINO cannot load this model: {said(error)}") from error
    if device != _CPU_DEVICE and device not in core.available_devices:
        raise Unavailable(f"OpenVINO finds no device {device!r} here, only {', '.join(core.available_devices)}")
    try:
        compiled = core.compile_model(network, device, _settings(core, device, setting.threads))
        request = compiled.create_infer_request()
        where = list(compiled.get_property("EXECUTION_DEVICES"))
    except RuntimeError as error:
        if device != _CPU_DEVICE:
            raise Unavailable(f"OpenVINO cannot run this model on {device}: {said(error)}") from error
        raise InvalidInput(f"OpenVINO cannot load this model: {said(error)}") from error
    if device != _CPU_DEVICE and any(_CPU_DEVICE in name for name in where):
        raise Unavailable(
            f"this model would run on {', '.join(where)}, not on {device} alone; use the accelerator 'cpu'"
        )
    return request


def _settings(core: Any, device: str, threads: int) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # On processors with bfloat16 it would compute float32 models in that, three digits, without being asked.
        "INFERENCE_PRECISION_HINT": "f32",
        # Likewise integer activations for models whose weights alone are integers.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        # Pinned threads of two processes sit on the same core while others idle.
        "ENABLE_CPU_PINNING": False,
    }
    if device == _CPU_DEVICE:
        return wanted
    known = set(core.get_property(device, "SUPPORTED_PROPERTIES"))
    if device.startswith("NPU"):
        known.discard("INFERENCE_PRECISION_HINT")  # it computes in 16 bits or fewer, and nothing else
    return {name: value for name, value in wanted.items() if name in known}


def _fix_batch(network: Any, batch: int) -> None:
    shapes = {}
    for port in network.inputs:
        shape = port.get_partial_shape()
        if shape.rank.is_dynamic or any(size.is_dynamic for size in list(shape)[1:]):
            raise InvalidInput(f"tensor {_name(port)!r} has free axes {shape}; fix all but the first when converting")
        if batch > 1 and len(shape) == 0:
            raise InvalidInput(f"this model cannot take {batch} at a time: its input {_name(port)!r} is one number")
        if shape.is_dynamic or batch > 1:
            shapes[port] = [batch, *(size.get_length() for size in list(shape)[1:])]
    if not shapes:
        return
    try:
        network.reshape(shapes)
    except RuntimeError as error:
        raise InvalidInput(f"this model cannot take {batch} at a time: {said(error)}") from error


def _spec(port: Any) -> TensorSpec:
    kind = port.get_element_type().get_type_name()
    if kind not in _DTYPES:
        raise InvalidInput(f"tensor {_name(port)!r} has type {kind}; edgeloop runs {', '.join(_DTYPES)}")
    shape = port.get_partial_shape()
    if shape.is_dynamic:
        raise InvalidInput(f"tensor {_name(port)!r} has free axes {shape}; fix them when converting")
    return TensorSpec(_name(port), tuple(int(size) for size in port.get_shape()), _DTYPES[kind])


def _name(port: Any) -> str:
    """A tensor may have several names: the one that the source model gave its node, else the first in the alphabet."""
    names = port.get_names()
    node = port.get_node()
    if node.get_type_name() == "Result":
        node = node.input_value(0).get_node()
    own = str(node.get_friendly_name())
    return own if own in names or not names else str(min(names))


def _require_distinct(specs: tuple[TensorSpec, ...]) -> None:
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        raise InvalidInput(f"several tensors of this model have one name: {names}; name them apart and convert again")
