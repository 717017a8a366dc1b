from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import Refused
from edgeloop.toolchain.convert.convert import ConvertRecipe, convert
from edgeloop.toolchain.data.dataset import Dataset, Part, Prepared, prepare
from edgeloop.toolchain.source.model import Model
from edgeloop.toolchain.source.torch import import_torch, wrap_torch
from edgeloop.toolchain.targets import Target

torch = pytest.importorskip("torch")
pytest.importorskip("litert_torch")

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def net() -> Model:
    """An image with channels first and a number in, a dict out."""
    nn = import_torch().nn

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.dense = nn.Conv2d(3, 2, 3), nn.Linear(2 * 4 * 6 + 1, 4)

        def forward(self, image: Any, number: Any) -> dict[str, Any]:
            hidden = torch.cat([self.conv(image).relu().flatten(1), number], dim=1)
            return {"zeta": self.dense(hidden), "alpha": hidden.sum(dim=1, keepdim=True)}

    torch.manual_seed(0)
    return wrap_torch(Net(), (torch.zeros(1, 3, 6, 8), torch.zeros(1, 1)), name="net.pt2")


@pytest.mark.parametrize("to", [Target.ONNX, Target.LITERT, Target.OPENVINO])
def test_every_tensor_keeps_its_name_and_its_values(net: Model, to: Target) -> None:
    made, _ = convert(net, ConvertRecipe(to=to))
    feeds = {"image": RNG.normal(size=(2, 3, 6, 8)).astype(np.float32), "number": np.ones((2, 1), np.float32)}
    expected, got = net.run(feeds), made.run(feeds)
    assert {spec.name for spec in made.inputs} == {"image", "number"}
    for name, value in expected.items():
        assert np.allclose(got[name], value, atol=1e-4)  # the order of float sums, of 48 terms


@pytest.mark.parametrize("to", [Target.ONNX, Target.LITERT])
def test_operator_without_a_twin_is_named(to: Target) -> None:
    class Odd(import_torch().nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return torch.special.bessel_j0(x)

    with pytest.raises(Refused, match=r"operator '(aten|prims)\.(special_)?bessel_j0"):
        convert(wrap_torch(Odd(), (torch.zeros(1, 3),)), ConvertRecipe(to=to))


def test_nan_in_a_weight_is_refused_by_its_name() -> None:
    linear = torch.nn.Linear(2, 2)
    with torch.no_grad():
        linear.bias[0] = float("nan")
    with pytest.raises(Refused, match="'bias'"):
        convert(wrap_torch(linear, (torch.zeros(1, 2),)), ConvertRecipe(to=Target.ONNX))


def test_real_images_prove_a_model_with_channels_first() -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 6 * 8, 2))
    source = wrap_torch(flat, (torch.zeros(1, 3, 6, 8),))
    part = Part(RNG.integers(0, 256, (20, 6, 8, 3), dtype=np.uint8), np.zeros(20, np.int64))
    data: Prepared = prepare(Dataset("d", ("a", "b"), part, part, part, part, "0" * 64), source.only_input())
    assert data.spec.layout == "nchw"
    assert np.array_equal(
        data.tensors(part.inputs), np.moveaxis(part.inputs, 3, 1).astype(np.float32) * np.float32(1 / 255)
    )
    _, report = convert(source, ConvertRecipe(to=Target.ONNX), data=data)
    assert (report.real, report.samples) == (True, 20)
