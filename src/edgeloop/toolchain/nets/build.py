"""A network by name, for an input and a number of classes."""

from collections.abc import Callable
from typing import Any

from edgeloop.contracts.errors import InvalidInput
from edgeloop.toolchain.backend import import_keras
from edgeloop.toolchain.nets.autoencoder import array_autoencoder, image_autoencoder
from edgeloop.toolchain.nets.dense import dense_net
from edgeloop.toolchain.nets.digits import KerasModel, digits_net
from edgeloop.toolchain.nets.name import GROWING, NetName
from edgeloop.toolchain.nets.residual import residual_net
from edgeloop.toolchain.nets.series import series_net
from edgeloop.toolchain.nets.slim import slim_net

Shape = tuple[int, ...]

_SMALLEST_SIDE_PX = 8
_DEEPEST = 64
_WIDEST = 16.0


def build_net(
    name: NetName,
    input_shape: Shape,
    classes: int,
    *,
    width: float = 1.0,
    depth: int | None = None,
    growth: float = 2.0,
) -> KerasModel:
    """A network with fresh weights.

    input_shape: without batch: (H, W, C) for images, (T, C) for series, (columns,) for tables, any for the
    autoencoder, which needs no classes. width, depth: as the network's own docstring says, depth None for its
    default; `digits` has neither. growth: of `slim` and `plain`, see slim_net; others do not ask for it.
    Raises InvalidInput if the network does not take such an input or shape.
    """
    if not 0 < width <= _WIDEST or (depth is not None and not 1 <= depth <= _DEEPEST):
        raise InvalidInput(f"width {width:g} must lie in 0..{_WIDEST:g} and depth {depth} in 1..{_DEEPEST}")
    if name is not NetName.AUTOENCODER and classes < 2:
        raise InvalidInput(
            f"{name} scores classes, and the data has {classes}; give labelled data, or take the autoencoder"
        )
    given = _given(width, depth)
    if name in GROWING:
        given["growth"] = growth
    return _BUILDERS[name](import_keras(), input_shape, classes, given)


def _given(width: float, depth: int | None) -> dict[str, Any]:
    return {"width": width} if depth is None else {"width": width, "depth": depth}


def _digits(keras: Any, shape: Shape, classes: int, given: dict[str, Any]) -> KerasModel:
    _require_image(NetName.DIGITS, shape)
    if given != {"width": 1.0}:
        raise InvalidInput("the net 'digits' has one width and depth; take 'slim', which has them to choose")
    if shape[2] != 1:
        raise InvalidInput(f"the net 'digits' takes grey images, not {shape}; take 'slim'")
    return digits_net(keras, shape[0], shape[1], classes=classes)


def _slim(keras: Any, shape: Shape, classes: int, given: dict[str, Any]) -> KerasModel:
    _require_image(NetName.SLIM, shape)
    return slim_net(keras, shape, classes=classes, **given)


def _plain(keras: Any, shape: Shape, classes: int, given: dict[str, Any]) -> KerasModel:
    _require_image(NetName.PLAIN, shape)
    return slim_net(keras, shape, classes=classes, separable=False, **given)


def _residual(keras: Any, shape: Shape, classes: int, given: dict[str, Any]) -> KerasModel:
    _require_image(NetName.RESIDUAL, shape)
    return residual_net(keras, *shape, classes=classes, **given)


def _series(keras: Any, shape: Shape, classes: int, given: dict[str, Any]) -> KerasModel:
    if len(shape) != 2:
        raise InvalidInput(f"the net 'series' takes series (steps, channels), not {shape}")
    return series_net(keras, *shape, classes=classes, **given)


def _dense(keras: Any, shape: Shape, classes: int, given: dict[str, Any]) -> KerasModel:
    if len(shape) != 1:
        raise InvalidInput(f"the net 'dense' takes rows of numbers (columns,), not {shape}")
    return dense_net(keras, *shape, classes=classes, **given)


def _autoencoder(keras: Any, shape: Shape, _classes: int, given: dict[str, Any]) -> KerasModel:
    is_image = len(shape) == 3 and shape[2] in (1, 3) and min(shape[:2]) >= _SMALLEST_SIDE_PX
    return image_autoencoder(keras, *shape, **given) if is_image else array_autoencoder(keras, shape, **given)


def _require_image(name: NetName, shape: Shape) -> None:
    if len(shape) != 3 or min(shape[:2]) < _SMALLEST_SIDE_PX:
        raise InvalidInput(
            f"the net {name.value!r} takes images (height, width, channels) of {_SMALLEST_SIDE_PX} pixels or more, "
            f"not {shape}; for series take 'series', for tables 'dense'"
        )


_BUILDERS: dict[NetName, Callable[[Any, Shape, int, dict[str, Any]], KerasModel]] = {
    NetName.DIGITS: _digits,
    NetName.SLIM: _slim,
    NetName.PLAIN: _plain,
    NetName.RESIDUAL: _residual,
    NetName.SERIES: _series,
    NetName.DENSE: _dense,
    NetName.AUTOENCODER: _autoencoder,
}
