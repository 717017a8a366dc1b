from typing import Any

import numpy as np
import pytest

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.convert.keras import export_keras
from edgeloop.toolchain.nets.build import build_net
from edgeloop.toolchain.nets.name import NetName
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.keras import wrap_keras
from edgeloop.toolchain.source.model import FEATURES, LOGITS, Format

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

CLASSES = 5
FORMS = [
    (NetName.DIGITS, (28, 28, 1), {}),
    (NetName.SLIM, (8, 8, 3), {"depth": 1}),
    (NetName.SLIM, (28, 28, 1), {"width": 0.5}),
    (NetName.SLIM, (33, 50, 3), {"width": 0.25, "depth": 7}),
    (NetName.RESIDUAL, (16, 16, 3), {"width": 0.25}),
    (NetName.RESIDUAL, (9, 12, 1), {"width": 0.25, "depth": 14}),
    (NetName.SERIES, (40, 3), {"width": 0.5}),
    (NetName.SERIES, (8, 1), {"depth": 1}),
    (NetName.DENSE, (13,), {"width": 0.5}),
]
SELVES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((28, 28, 1), {"width": 0.25}),
    ((9, 14, 3), {"width": 0.25, "depth": 3}),
    ((11,), {}),
    ((10, 4), {"depth": 1}),
]


@pytest.mark.parametrize(("name", "shape", "given"), FORMS)
def test_net_scores_its_classes_and_offers_features(name: NetName, shape: tuple[int, ...], given: Any) -> None:
    model = wrap_keras(build_net(name, shape, CLASSES, **given), name="net")
    outputs = {spec.name: spec.shape for spec in model.outputs}
    assert outputs[LOGITS] == (1, CLASSES)
    assert len(outputs[FEATURES]) == 2


@pytest.mark.parametrize(("shape", "given"), SELVES)
def test_autoencoder_gives_its_inputs_shape(shape: tuple[int, ...], given: Any) -> None:
    net = build_net(NetName.AUTOENCODER, shape, 0, **given)
    assert tuple(net.output.shape[1:]) == shape


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (NetName.SERIES, (20, 2)),
        (NetName.AUTOENCODER, (9, 9, 1)),
    ],
)
def test_litert_answers_like_the_net(name: NetName, shape: tuple[int, ...]) -> None:
    import_keras().utils.set_random_seed(0)
    model = wrap_keras(build_net(name, shape, CLASSES, width=0.25), name="net")
    runnable = wrap_runnable(export_keras(model, Format.LITERT), Format.LITERT, name="net.tflite")
    inputs = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    # Folding BatchNorm and another order of float32 sums; scores are of the order of 1.
    assert np.abs(runnable.scores(inputs) - model.scores(inputs)).max() < 1e-4


def test_width_and_depth_make_it_larger() -> None:
    sizes = [
        build_net(NetName.SLIM, (28, 28, 1), 10, width=width, depth=depth).count_params()
        for width, depth in ((0.5, 3), (0.5, 5), (1.0, 5))
    ]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("side_px", [8, 28, 64, 130])
def test_slim_net_ends_on_few_pixels_whatever_the_image(side_px: int) -> None:
    net = build_net(NetName.SLIM, (side_px, side_px, 3), 2, depth=6)
    last = net.get_layer("block6_point_relu").output.shape[1]
    assert 4 <= last <= 9


def test_residual_net_of_eight_layers_is_that_of_mlperf_tiny() -> None:
    # 78,666 parameters with biases in its convolutions (Banbury et al. 2021); ours have BatchNorm alone.
    net = build_net(NetName.RESIDUAL, (32, 32, 3), 10)
    assert abs(net.count_params() - 78_666) < 100


@pytest.mark.parametrize(
    ("name", "shape", "classes", "given", "reason"),
    [
        (NetName.DIGITS, (28, 28, 3), 10, {}, "takes grey images"),
        (NetName.DIGITS, (28, 28, 1), 10, {"width": 0.5}, "take 'slim', which has them"),
        (NetName.SLIM, (7, 28, 1), 10, {}, "of 8 pixels or more"),
        (NetName.SLIM, (28,), 10, {}, "for tables 'dense'"),
        (NetName.SLIM, (28, 28, 1), 0, {}, "or take the autoencoder"),
        (NetName.SLIM, (28, 28, 1), 10, {"width": 0.0}, "width 0 must lie"),
        (NetName.RESIDUAL, (28, 28, 1), 10, {"depth": 9}, r"8, 14, 20, \.\.\.; not 9"),
        (NetName.SERIES, (28, 28, 1), 10, {}, "takes series"),
        (NetName.DENSE, (28, 28), 10, {}, "takes rows of numbers"),
    ],
)
def test_what_a_net_does_not_take_is_refused_with_what_to_take(
    name: NetName, shape: tuple[int, ...], classes: int, given: Any, reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        build_net(name, shape, classes, **given)
