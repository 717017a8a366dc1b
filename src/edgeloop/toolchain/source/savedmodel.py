"""TensorFlow SavedModel folders as Models, through their serving signature."""

import io
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Refused
from edgeloop.runtime.engine import TensorSpec
from edgeloop.runtime.quiet import without_native_chatter
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.source.model import Feeds, Format, Model, Run
from edgeloop.toolchain.source.onnx import protobuf_error

SIGNATURE = "serving_default"
MARK = "saved_model.pb"

# Operators that reach outside of the model: into Python, or to files. A model file is data.
_REACHING_OUT = frozenset(
    ("PyFunc", "PyFuncStateless", "EagerPyFunc", "ReadFile", "WriteFile", "MatchingFiles", "LoadDataset", "SaveDataset")
)


def load_savedmodel(folder: Path) -> Model:
    """A SavedModel folder with a "serving_default" signature.

    Raises NotFound; InvalidInput if it has no such signature or free axes but the first; Refused if its graph reads
    files or calls Python; Corrupt.
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
    from tensorflow.core.protobuf import saved_model_pb2

    stored = saved_model_pb2.SavedModel()
    try:
        stored.ParseFromString((folder / MARK).read_bytes())
    except protobuf_error() as error:
        raise Corrupt(f"{folder / MARK} is damaged: {error}") from error
    for graph in stored.meta_graphs:
        nodes = [*graph.graph_def.node, *(n for one in graph.graph_def.library.function for n in one.node_def)]
        reaching = sorted({node.op for node in nodes} & _REACHING_OUT)
        if reaching:
            raise Refused(
                f"{folder.name} holds the operator {reaching[0]}, which reaches files or Python code outside of the "
                "model; a model file is data: export it without (no tf.py_function, no file reading in the graph)"
            )


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
