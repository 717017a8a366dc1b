import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, NotFound, Refused
from edgeloop.toolchain.source.model import Format, Model
from edgeloop.toolchain.source.torch import import_torch, load_torch, wrap_torch

torch = pytest.importorskip("torch")


def _two_heads() -> Any:
    nn = import_torch().nn

    class TwoHeads(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

        def forward(self, a: Any, b: Any) -> dict[str, Any]:
            hidden = self.left(a) + self.right(b)
            return {"logits": hidden, "features": hidden.relu()}

    return TwoHeads()


@pytest.fixture(scope="module")
def made() -> Model:
    """A small convolution, (1, 1, 6, 6) to (1, 3)."""
    nn = import_torch().nn
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    return wrap_torch(module, (import_torch().zeros(1, 1, 6, 6),), name="net.pt2")


@pytest.fixture
def path(made: Model, tmp_path: Path) -> Path:
    path = tmp_path / "net.pt2"
    path.write_bytes(made.data)
    return path


def _rewrite(path: Path, part: str, change: Callable[[bytes], bytes]) -> None:
    """Change one part of the archive; '' adds one called 'part'."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    key = next(name for name in parts if name.partition("/")[2] == part)
    parts[key] = change(parts[key])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def test_file_answers_like_the_module_it_was_made_of(made: Model, path: Path) -> None:
    feeds = {"input": np.random.default_rng(0).normal(size=(3, 1, 6, 6)).astype(np.float32)}
    # The same operators in the same library: not a bit differs.
    assert np.array_equal(load_torch(path).run(feeds)["output"], made.run(feeds)["output"])


def test_tensors_are_stated_with_batch_one(path: Path) -> None:
    model = load_torch(path)
    assert (model.format, model.inputs[0].shape, model.outputs[0].shape) == (Format.TORCH, (1, 1, 6, 6), (1, 3))


def test_outputs_are_called_as_the_module_calls_them() -> None:
    zeros = import_torch().zeros
    model = wrap_torch(_two_heads(), (zeros(1, 4), zeros(1, 2)))
    assert [spec.name for spec in (*model.inputs, *model.outputs)] == ["a", "b", "logits", "features"]


def test_outputs_without_names_are_counted() -> None:
    nn = import_torch().nn

    class Pair(nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> tuple[Any, Any]:
            return x + 1, x * 2

    model = wrap_torch(Pair(), (import_torch().zeros(1, 2),))
    assert [spec.name for spec in model.outputs] == ["output_0", "output_1"]


def test_free_first_axis_is_taken_as_one_sample(tmp_path: Path) -> None:
    torch = import_torch()
    program = torch.export.export(
        torch.nn.Linear(4, 2), (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, tmp_path / "free.pt2")
    model = load_torch(tmp_path / "free.pt2")
    assert (model.inputs[0].shape, model.run({"input": np.zeros((3, 4), np.float32)})["output"].shape) == (
        (1, 4),
        (3, 2),
    )


def test_batch_fixed_to_two_is_refused() -> None:
    torch = import_torch()
    with pytest.raises(InvalidInput, match="first axis of 1 sample"):
        wrap_torch(torch.nn.Linear(4, 2), (torch.zeros(2, 4),))


@pytest.mark.parametrize("name", ["model.pt", "model.pth"])
def test_pickled_module_says_how_to_export(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(InvalidInput, match=r"torch\.export\.save"):
        load_torch(tmp_path / name)


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_torch(tmp_path / "net.pt2")


def test_cut_file_is_corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(Corrupt, match=r"no \.pt2 archive"):
        load_torch(path)


def test_graph_that_is_no_json_is_corrupt(path: Path) -> None:
    _rewrite(path, "models/model.json", lambda data: data[:-100])
    with pytest.raises(Corrupt, match="damaged"):
        load_torch(path)


# ---- a model file is data


class _Touch:
    """Unpickled, it makes a file."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.where,)


def _pickled(where: Path) -> bytes:
    kept = io.BytesIO()
    torch.save(_Touch(where), kept)
    return kept.getvalue()


def test_pickled_example_inputs_are_never_opened(path: Path, tmp_path: Path) -> None:
    _rewrite(path, "data/sample_inputs/model.pt", lambda data: _pickled(tmp_path / "ran"))
    load_torch(path)
    assert not (tmp_path / "ran").exists()


def test_pickled_weight_is_refused_unopened(path: Path, tmp_path: Path) -> None:
    _rewrite(path, "data/weights/weight_0", lambda data: _pickled(tmp_path / "ran"))
    _rewrite(
        path,
        "data/weights/model_weights_config.json",
        lambda data: data.replace(b'"use_pickle": false', b'"use_pickle": true', 1),
    )
    with pytest.raises(Refused, match="is a pickle"):
        load_torch(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "target", ["torch.os.system", "_operator.attrgetter", "torch.hub.load", "torch.ops.load_library", "math.__loader__"]
)
def test_call_of_what_is_no_operator_is_refused_by_name(path: Path, target: str) -> None:
    _rewrite(path, "models/model.json", lambda data: data.replace(b"torch.ops.aten.relu.default", target.encode()))
    with pytest.raises(Refused, match=target.replace(".", r"\.")):
        load_torch(path)


def test_size_that_is_code_is_refused_unevaluated(path: Path, tmp_path: Path) -> None:
    code = f"__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch()"

    def change(data: bytes) -> bytes:
        graph = json.loads(data)
        graph["graph_module"]["graph"]["tensor_values"]["input"]["sizes"][0] = {"as_expr": {"expr_str": code}}
        return json.dumps(graph).encode()

    _rewrite(path, "models/model.json", change)
    with pytest.raises(Refused, match="no formula of sizes"):
        load_torch(path)
    assert not (tmp_path / "ran").exists()


def test_compiled_library_is_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data/aotinductor/model/code.so", b"\x7fELF")
    with pytest.raises(Refused, match="compiled library"):
        load_torch(path)


def test_older_archive_says_how_to_make_it_anew(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("version", b"8.8")
        archive.writestr("serialized_state_dict.pt", _pickled(tmp_path / "ran"))
    with pytest.raises(EdgeloopError, match=r"2\.8 or later"):
        load_torch(tmp_path / "old.pt2")
    assert not (tmp_path / "ran").exists()
