"""PyTorch models as Models: exported programs (.pt2), loaded as data, and modules that Python has at hand.

A .pt2 is a zip of JSON and raw weights, but may also hold pickles, compiled libraries and the names of functions to
call, and torch's own loader obeys all of these. So the archive is read here first, refused unless it is plain data,
and only what was checked is handed on.
"""

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Refused, Unavailable
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.engines.quiet import without_native_chatter
from edgeloop.toolchain.source.model import Feeds, Format, Model, Run
from edgeloop.toolchain.unpacking import require_unpackable

TORCH_SUFFIXES = (".pt2",)
PICKLED_SUFFIXES = (".pt", ".pth", ".ckpt")

HOW_TO_EXPORT = (
    "in Python: program = torch.export.export(module.eval(), (example,)); torch.export.save(program, 'model.pt2')"
)

# What a graph may call: operators of torch's libraries, and arithmetic on sizes. Anything else under `torch` or
# `_operator` could be any Python function, torch.os.system among them.
_CALLS = re.compile(
    r"torch\.ops\.(aten|prims|prim|quantized_decomposed|torchvision)\.[\w.]+"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|wrap_with_set_grad_enabled)"
    r"|torch\.sym_(int|float|max|min|not|ite|sqrt)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
# Sizes are read by sympy, which evaluates them as Python; these are the words of real formulas of sizes.
_SIZES = re.compile(
    r"(?:[-+*/%(),\s\d<>=]|'[suz]\d+'|\b(?:Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CeilDiv"
    r"|CleanDiv|ModularIndexing|IntTrueDiv|Eq|Ne|Equality|Unequality|integer|positive|nonnegative|True|False|int_oo|oo"
    r"|[suz]\d+)\b)*"
)


def load_torch(path: Path) -> Model:
    """A .pt2 exported program. Raises NotFound; InvalidInput on other torch files; Refused if it holds more than data;
    Corrupt; Unavailable if PyTorch is missing."""
    if not path.is_file():
        raise NotFound(f"there is no model at {path}")
    if path.suffix in PICKLED_SUFFIXES:
        raise InvalidInput(
            f"{path.name} is a pickle of PyTorch objects: it runs code when it is loaded, and does not say what the "
            f"model takes. Export the module where its code is, {HOW_TO_EXPORT}"
        )
    data = path.read_bytes()
    return _wrap_program(_load_program(data, path.name), name=path.name, data=data)


def wrap_torch(module: Any, example_inputs: tuple[Any, ...], *, name: str = "module") -> Model:
    """A torch.nn.Module as a Model. example_inputs: positional tensors with batch axis 1.

    Output names: the keys where the module returns a dict, "output" where it returns one tensor, else "output_0" and
    so on. Raises InvalidInput if it cannot be exported.
    """
    torch = import_torch()
    try:
        with warnings.catch_warnings(), without_native_chatter():
            warnings.simplefilter("ignore")
            program = torch.export.export(module.eval(), example_inputs)
            kept = io.BytesIO()
            torch.export.save(program, kept)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise InvalidInput(f"{name} cannot be exported: {str(error).strip().splitlines()[0]}") from error
    return _wrap_program(program, name=name, data=kept.getvalue())


def import_torch() -> Any:
    """The torch module. Raises Unavailable if it is not installed."""
    try:
        with warnings.catch_warnings(), without_native_chatter():
            warnings.simplefilter("ignore")
            import torch
            import torch.export
    except ImportError as error:
        raise Unavailable(
            f"PyTorch models need torch ({error}); install it with: pip install 'edgeloop[torch]'"
        ) from error
    return torch


def torch_weights(model: Model) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every weight and constant by name."""
    for key, tensor in (*model.native.state_dict.items(), *model.native.constants.items()):
        if hasattr(tensor, "detach"):
            yield key, tensor.detach().numpy()


def _load_program(data: bytes, name: str) -> Any:
    torch = import_torch()
    checked = _plain_archive(data, name)
    try:
        with warnings.catch_warnings(), without_native_chatter():
            warnings.simplefilter("ignore")
            return torch.export.load(checked)
    except (RuntimeError, ValueError, KeyError, AssertionError, AttributeError) as error:
        raise Corrupt(
            f"{name} cannot be loaded as an exported program: {str(error).strip().splitlines()[0]}"
        ) from error


def _plain_archive(data: bytes, name: str) -> io.BytesIO:
    """The parts that are data, as an archive anew; example inputs, a pickle, are left empty."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            require_unpackable(archive, name)
            parts = {one.filename: archive.read(one) for one in archive.infolist() if not one.is_dir()}
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError) as error:
        raise Corrupt(f"{name} is no .pt2 archive: {error}; make one {HOW_TO_EXPORT}") from error
    inner = {key.partition("/")[2]: key for key in parts}
    if parts.get(inner.get("archive_format", ""), b"").strip() != b"pt2":
        raise InvalidInput(f"{name} is not in torch's pt2 archive format of 2.8 or later; make one {HOW_TO_EXPORT}")
    _require_plain(inner, parts, name)
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w") as archive:
        for short, key in inner.items():
            archive.writestr(key, b"" if short.startswith("data/sample_inputs/") else parts[key])
    kept.seek(0)
    return kept


def _require_plain(inner: Mapping[str, str], parts: Mapping[str, bytes], name: str) -> None:
    for short, key in inner.items():
        if short.startswith("data/aotinductor/"):
            raise Refused(f"{name} holds a compiled library ({short}); export it without AOTInductor: {HOW_TO_EXPORT}")
        if short in ("data/weights/model.pt", "data/constants/model.pt"):
            raise Refused(f"{name} keeps weights as a pickle ({short}), which runs code; make it anew {HOW_TO_EXPORT}")
        if short.endswith("_config.json"):
            _require_raw_weights(_json(parts[key], name, short), name)
        elif short.startswith("models/"):
            _require_known_calls(_json(parts[key], name, short), name)


def _json(data: bytes, name: str, part: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise Corrupt(f"{name}: its part {part} is damaged: {error}") from error


def _require_raw_weights(config: Any, name: str) -> None:
    for key, entry in (config.get("config") or {}).items():
        path = str(entry.get("path_name", ""))
        if entry.get("use_pickle", True) or path.startswith(("custom_obj", "opaque_obj")):
            raise Refused(f"{name}: weight {key!r} is a pickle, which runs code when it is loaded; save plain tensors")


def _require_known_calls(graph: Any, name: str) -> None:
    for key, value in _walk(graph):
        if key == "target" and not _CALLS.fullmatch(value):
            raise Refused(
                f"{name}: its graph calls {value!r}, which is no operator of PyTorch's own libraries; "
                "a custom operator cannot be converted: write it in terms of torch operators"
            )
        if key == "expr_str" and not _SIZES.fullmatch(value):
            raise Refused(f"{name}: a size is given as {value[:80]!r}, which is no formula of sizes")
        if key == "as_operator" and not _CALLS.fullmatch(value):
            raise Refused(f"{name}: its graph passes {value!r} on, which is no operator of PyTorch's own libraries")


def _walk(node: Any) -> Iterator[tuple[str, str]]:
    """Every (key, string value) at any depth, but in free-form notes on where a node came from."""
    stack = [node]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack.extend(one)
        elif isinstance(one, dict):
            for key, value in one.items():
                if isinstance(value, str):
                    yield key, value
                elif key not in ("metadata", "buffers_to_mutate"):
                    stack.append(value)


def _wrap_program(program: Any, *, name: str, data: bytes) -> Model:
    inputs = tuple(_input_spec(node, name) for node in _user_inputs(program))
    module = program.module(check_guards=False)
    run, outputs = _runner(module, program, inputs)
    return Model(name=name, format=Format.TORCH, native=program, inputs=inputs, outputs=outputs, run=run, data=data)


def _user_inputs(program: Any) -> list[Any]:
    wanted = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [nodes[str(key)] for key in wanted]


def _input_spec(node: Any, name: str) -> TensorSpec:
    value = node.meta.get("val")
    if not hasattr(value, "shape"):
        raise InvalidInput(f"input {node.name!r} of {name} is {type(value).__name__}; inputs must be tensors")
    sizes = list(value.shape)
    if sizes and not isinstance(sizes[0], int):
        sizes[0] = 1
    if not sizes or not all(isinstance(size, int) for size in sizes) or sizes[0] != 1:
        raise InvalidInput(
            f"input {node.name!r} of {name} is {tuple(str(size) for size in value.shape)}; export it with a first axis "
            "of 1 sample, or free, and all other axes fixed"
        )
    return TensorSpec(node.name, tuple(sizes), str(value.dtype).removeprefix("torch."))


def flat_call(program: Any) -> Any:
    """The program as a module from tensors in input order to a tuple of tensors in output order."""
    torch = import_torch()
    tree = torch.utils._pytree
    inner, structure = program.module(check_guards=False), program.call_spec.in_spec

    class Flat(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner
            self.training = False  # as exported; an exported module turns down eval() and train()

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            args, kwargs = tree.tree_unflatten(list(tensors), structure)
            return tuple(tree.tree_leaves(self.inner(*args, **kwargs)))

    return Flat()


def _output_names(program: Any, count: int) -> list[str]:
    structure = program.call_spec.out_spec
    if structure.type is dict and len(structure.context) == count:
        return [str(key) for key in structure.context]
    return ["output"] if count == 1 else [f"output_{index}" for index in range(count)]


def _runner(module: Any, program: Any, inputs: tuple[TensorSpec, ...]) -> tuple[Run, tuple[TensorSpec, ...]]:
    torch = import_torch()
    tree = torch.utils._pytree
    structure = program.call_spec.in_spec

    def call(feeds: Feeds, index: int) -> list[NDArray[Any]]:
        tensors = [
            torch.from_numpy(np.ascontiguousarray(feeds[spec.name][index : index + 1], dtype=spec.dtype))
            for spec in inputs
        ]
        args, kwargs = tree.tree_unflatten(tensors, structure)
        with torch.no_grad():
            return [np.asarray(leaf.detach().numpy()) for leaf in tree.tree_leaves(module(*args, **kwargs))]

    zeros = call({spec.name: np.zeros(spec.shape, spec.dtype) for spec in inputs}, 0)
    names = _output_names(program, len(zeros))
    outputs = tuple(
        TensorSpec(key, tuple(value.shape), value.dtype.name) for key, value in zip(names, zeros, strict=True)
    )

    def run(feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Sample by sample: a program may be fixed to one."""
        count = len(next(iter(feeds.values())))
        made = [call(feeds, index) for index in range(count)]
        return {key: np.concatenate([one[place] for one in made]) for place, key in enumerate(names)}

    return run, outputs
