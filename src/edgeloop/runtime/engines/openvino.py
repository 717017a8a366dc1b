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
from typing import Any

from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, Unavailable
from edgeloop.runtime.engines.feeds import check_feeds
from edgeloop.runtime.engines.port import Tensors, TensorSpec

_GRAPH = "model.xml"
_WEIGHTS = "model.bin"
_MOST_GRAPH_BYTES = 64 * 1024 * 1024
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_TELEMETRY = "openvino_telemetry"
_DTYPES = {"f32": "float32", "f64": "float64", "u8": "uint8", "i8": "int8", "i32": "int32", "i64": "int64"}


class OpenVinoEngine:
    """An .openvino model on OpenVINO's CPU plugin. A free leading axis is taken as batch 1."""

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        self._request = _request(model, threads)
        compiled = self._request.get_compiled_model()
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)
        for specs in (self.inputs, self.outputs):
            _require_distinct(specs)
        # Written in place: handing arrays to infer() costs 2 to 5 times as much in Python as a small net's arithmetic.
        self._feeds = {spec.name: self._request.get_input_tensor(i).data for i, spec in enumerate(self.inputs)}

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Execute once; see Engine.run."""
        if self._request is None:
            raise InvalidInput("this engine was closed; load the model again")
        check_feeds(feeds, self.inputs)
        for name, own in self._feeds.items():
            own[...] = feeds[name]
        try:
            self._request.infer(share_outputs=True)
        except RuntimeError as error:
            raise Corrupt(f"the model failed while it ran: {_said(error)}") from error
        return {spec.name: self._request.get_output_tensor(i).data.copy() for i, spec in enumerate(self.outputs)}

    def close(self) -> None:
        """Give up memory."""
        self._feeds = {}
        self._request = None


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


def _request(model: bytes, threads: int) -> Any:
    xml, weights = unpack_ir(model)
    openvino = import_openvino()
    try:
        core = openvino.Core()
        network = core.read_model(model=xml, weights=weights)
        _fix_batch(network)
        return core.compile_model(network, "CPU", _settings(threads)).create_infer_request()
    except RuntimeError as error:
        raise InvalidInput(f"OpenVINO cannot load this model: {_said(error)}") from error


def _settings(threads: int) -> dict[str, Any]:
    return {
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


def _fix_batch(network: Any) -> None:
    shapes = {}
    for port in network.inputs:
        shape = port.get_partial_shape()
        if shape.rank.is_dynamic or any(size.is_dynamic for size in list(shape)[1:]):
            raise InvalidInput(f"tensor {_name(port)!r} has free axes {shape}; fix all but the first when converting")
        if shape.is_dynamic:
            shapes[port] = [1, *(size.get_length() for size in list(shape)[1:])]
    if shapes:
        network.reshape(shapes)


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


def _said(error: RuntimeError) -> str:
    """The last line that says something; those before say where in OpenVINO's source it was said."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
