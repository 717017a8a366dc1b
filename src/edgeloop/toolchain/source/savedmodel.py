"""TensorFlow SavedModel folders as Models, through their serving signature.

A SavedModel is a program: TensorFlow runs its initialisers when it opens one and its signature when it is asked, and
operators can write files. So its graph is read first, and refused unless all that can run is known to compute only.
"""

import io
import tarfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Refused
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.engines.quiet import without_native_chatter
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.source.model import Feeds, Format, Model, Run
from edgeloop.toolchain.source.onnx import protobuf_error
from edgeloop.toolchain.source.operators import COMPUTING

SIGNATURE = "serving_default"
MARK = "saved_model.pb"

# TensorFlow's own saver; it stands beside what runs here, since weights are restored by the process that loads them.
_SAVER = frozenset(
    (
        *("SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"),
        *("DisableCopyOnRead", "StaticRegexFullMatch", "StringJoin"),
    )
)


def load_savedmodel(folder: Path) -> Model:
    """A SavedModel folder with a "serving_default" signature.

    Raises NotFound; InvalidInput if it has no such signature or free axes but the first; Refused if an operator that
    may run is none of those that compute only, or TensorFlow 1 wrote it; Corrupt.
    """
    if not (folder / MARK).is_file():
        raise NotFound(f"{folder} is no SavedModel: it has no {MARK}")
    import_keras()
    import tensorflow as tf

    _require_closed(folder)
    try:
        with warnings.catch_warnings(), without_native_chatter():
            warnings.simplefilter("ignore")
            loaded = tf.saved_model.load(str(folder))
    except (OSError, ValueError, KeyError, RuntimeError, tf.errors.OpError) as error:
        raise Corrupt(f"{folder} cannot be loaded as a SavedModel: {str(error).splitlines()[0]}") from error
    if SIGNATURE not in loaded.signatures:
        raise InvalidInput(
            f"{folder.name} has the signatures {', '.join(loaded.signatures) or 'none'}; expected {SIGNATURE!r} "
            "(model.export(folder) writes one)"
        )
    signature = loaded.signatures[SIGNATURE]
    given = signature.structured_input_signature[1]
    inputs = tuple(_spec(name, spec, folder.name) for name, spec in sorted(given.items()))
    outputs = tuple(_spec(name, spec, folder.name) for name, spec in sorted(signature.structured_outputs.items()))
    return Model(
        name=folder.name,
        format=Format.SAVED_MODEL,
        native=folder,
        inputs=inputs,
        outputs=outputs,
        run=_runner(loaded, inputs),
        data=_archive(folder),
    )


def savedmodel_weights(model: Model) -> list[tuple[str, NDArray[Any]]]:
    """Every variable by name."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(model.native))
    found = {
        variable.name: variable.numpy()
        for variable in (*loaded.signatures[SIGNATURE].variables, *getattr(loaded, "variables", ()))
    }
    return sorted(found.items())


def _require_closed(folder: Path) -> None:
    """Raise Refused unless everything that opening and asking can run is an operator that computes only.

    That is every function that the file's objects name, the signature and initialisers among them (which one the
    loader calls under which name is the file's own choice), and whatever those call.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel()
    try:
        stored.ParseFromString((folder / MARK).read_bytes())
    except protobuf_error() as error:
        raise Corrupt(f"{folder / MARK} is damaged: {error}") from error
    if len(stored.meta_graphs) != 1 or not stored.meta_graphs[0].HasField("object_graph_def"):
        raise Refused(
            f"{folder.name} is in TensorFlow 1's form, whose initialisers run unseen when it is opened; save it anew "
            "in TensorFlow 2 where you trust it: model.export(folder), or tf.saved_model.save"
        )
    graph = stored.meta_graphs[0]
    functions = {one.signature.name: one for one in graph.graph_def.library.function}
    reached = _reached(functions, _named(graph.object_graph_def, functions))
    running = (node for name in reached for node in functions[name].node_def)
    _require_computing(running, COMPUTING | functions.keys(), folder.name)
    # What only stands in the file is not run; the saver's functions are of this kind. Nothing else is expected.
    others = (one.node_def for name, one in functions.items() if name not in reached)
    resting = (node for nodes in (graph.graph_def.node, *others) for node in nodes)
    _require_computing(resting, COMPUTING | _SAVER | functions.keys(), folder.name)


def _require_computing(nodes: Iterable[Any], known: frozenset[str], name: str) -> None:
    foreign = sorted({node.op for node in nodes} - known)
    if foreign:
        raise Refused(
            f"{name} holds the operator {foreign[0]}, which is none of those that only compute; others could read or "
            "write files or run code, and a model file is data. Export the serving function alone and without it: "
            "no tf.print, tf.py_function, file, table file or training step in the graph"
        )


def _named(objects: Any, functions: Mapping[str, Any]) -> set[str]:
    """The functions that the objects of a file name, and those that TensorFlow may put in another one's place."""
    names = set(objects.concrete_functions)
    for node in objects.nodes:
        names.update(node.function.concrete_functions)
        names.add(node.bare_concrete_function.concrete_function_name)
    names.update(name for name, one in functions.items() if "api_implements" in one.attr)
    return names & functions.keys()


def _reached(functions: Mapping[str, Any], roots: Iterable[str]) -> set[str]:
    """The roots, and every function that one of these calls."""
    reached: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(_called(functions[name].node_def, functions))
    return reached


def _called(nodes: Iterable[Any], functions: Mapping[str, Any]) -> Iterator[str]:
    for node in nodes:
        named = [node.op]
        for value in node.attr.values():
            named.extend((value.func.name, *(one.name for one in value.list.func)))
        yield from (name for name in named if name in functions)


def _spec(name: str, spec: Any, model: str) -> TensorSpec:
    sizes: list[Any] = list(spec.shape) if spec.shape.rank is not None else [None, None]
    if sizes and sizes[0] is None:
        sizes[0] = 1
    if not sizes or any(size is None for size in sizes):
        raise InvalidInput(
            f"tensor {name!r} of {model} has free axes {spec.shape}; export it with all but the first fixed"
        )
    return TensorSpec(name, tuple(int(size) for size in sizes), spec.dtype.name)


def _runner(loaded: Any, inputs: tuple[TensorSpec, ...]) -> Run:
    import tensorflow as tf

    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Sample by sample: a signature may be fixed to one. `loaded` is held: its variables die with it."""
        signature = loaded.signatures[SIGNATURE]
        made: dict[str, list[NDArray[Any]]] = {}
        for index in range(len(next(iter(feeds.values())))):
            one = {spec.name: tf.constant(feeds[spec.name][index : index + 1], dtype=spec.dtype) for spec in inputs}
            for name, value in signature(**one).items():
                made.setdefault(name, []).append(value.numpy())
        return {name: np.concatenate(parts) for name, parts in made.items()}

    return run


def _archive(folder: Path) -> bytes:
    """The folder as a tar with nothing in it that changes from one copy to the next."""
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w") as archive:
        for path in sorted(one for one in folder.rglob("*") if one.is_file()):
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            content = path.read_bytes()
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return kept.getvalue()
