"""Images into the engine's buffer, by the shortest way to what the plain path gives.

A source of one size takes one route, planned once and kept: which steps work on pixels, each into memory of its own,
and one look-up for all that follows them, straight into the buffer. OpenCV decodes to BGR; channels change places
after the last resize, where the image is small, since a resize treats them alike (but the cubic one: at the end of a
row, OpenCV computes that by another arithmetic). Neighbours: `preprocess` is the plain path, `lut` the look-up,
`geometry` says where pixels go.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import InputSpec
from edgeloop.contracts.preprocess import (
    CenterCrop,
    Colour,
    ColourOrder,
    Grey,
    Interpolation,
    Letterbox,
    Normalize,
    Resize,
    Scale,
    Step,
)
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.engines.quantized import quantize_tensor
from edgeloop.runtime.input.geometry import Geometric, Place, locate, place
from edgeloop.runtime.input.image_steps import INTERPOLATION, grey
from edgeloop.runtime.input.images import Image, Seen, see
from edgeloop.runtime.input.lut import Put, Tables, fold, is_identity, is_same_for_all, put_into, put_planes
from edgeloop.runtime.input.opencv import cv2
from edgeloop.runtime.input.port import Geometry, Source
from edgeloop.runtime.input.preprocess import CHANNELS_FIRST, check_steps, preprocess
from edgeloop.runtime.input.stages import check_tensor, require_room

_MOST_ROUTES = 8
"""Sizes of sources whose routes are kept, with the memory that they work in."""

_Stage = Callable[[NDArray[Any]], NDArray[Any]]
"""From pixels to pixels, (H, W) or (H, W, 3) uint8."""
_Maker = Callable[[NDArray[Any]], _Stage]
"""A stage that leaves its result in this array, if it can."""
_Key = tuple[tuple[int, ...], bool, int, int]


class _Plan(NamedTuple):
    """steps: those that work on pixels of 8 bits. late: of what follows, those that only order channels. tables: the
    rest, by the number of channels that it begins with."""

    steps: tuple[Step, ...]
    late: tuple[Step, ...]
    tables: dict[int, Tables | None]


class _Route(NamedTuple):
    """put: None where only the plain path knows the way, or says why there is none."""

    geometry: Geometry
    stages: tuple[_Stage, ...] = ()
    put: Put | None = None


_UINT8 = np.dtype(np.uint8)
_NO_ROUTE = _Route(Geometry(0, 0))


class PixelFront:
    """The way in for images. Not thread-safe: it works in memory of its own.

    Raises InvalidInput if a step does not fit, or what they make cannot go into the tensor.
    """

    def __init__(self, spec: InputSpec, steps: tuple[Step, ...], tensor: TensorSpec) -> None:
        check_steps(steps, spec)
        check_tensor(spec, tensor)
        self._spec, self._steps, self._tensor = spec, steps, tensor
        self._reduce_to = _reduce_to(steps)
        self._plan = _plan(steps, tensor)
        self._routes: dict[_Key, _Route] = {}
        self._last_shape: tuple[int, ...] | None = None
        self._last_route = _NO_ROUTE
        self._buffer: NDArray[Any] | None = None

    def write(self, source: Source, buffer: NDArray[Any]) -> Geometry:
        """Prepare one image into the engine's buffer; see Front.write."""
        if buffer is not self._buffer:
            self._bind(buffer)
        if self._is_like_last(source):
            return self._put(source, self._last_route)
        seen = see(source, reduce_to=self._reduce_to)
        pixels = seen.pixels
        key = (pixels.shape, seen.is_bgr, seen.height_px, seen.width_px)
        route = self._routes.get(key)
        if route is None:
            route = self._remember(key, self._route(key, buffer))
        if route.put is None:
            reals = self._plain(seen)
            require_room(reals, self._tensor)
            np.copyto(buffer, quantize_tensor(reals, self._tensor))
            return route.geometry
        if pixels is source:
            self._last_shape, self._last_route = pixels.shape, route
        return self._put(pixels, route)

    def _is_like_last(self, source: Source) -> TypeGuard[NDArray[Any]]:
        """Whether this is an array just like one that was checked before: camera frames are."""
        return (
            isinstance(source, np.ndarray)
            and source.shape == self._last_shape
            and source.dtype is _UINT8
            and source.strides[-1] > 0
        )

    @staticmethod
    def _put(pixels: NDArray[Any], route: "_Route") -> Geometry:
        assert route.put is not None
        for stage in route.stages:
            pixels = stage(pixels)
        route.put(pixels)
        return route.geometry

    def tensor(self, source: Source) -> NDArray[np.float32]:
        """The same by the plain path; see Front.tensor."""
        return self._plain(see(source, reduce_to=self._reduce_to))

    def _plain(self, seen: Seen) -> NDArray[np.float32]:
        return preprocess(seen.rgb(), self._steps, self._spec)

    def _bind(self, buffer: NDArray[Any]) -> None:
        if buffer.shape != self._tensor.shape or buffer.dtype != np.dtype(self._tensor.dtype):
            raise InvalidInput(
                f"the buffer is {buffer.dtype} {buffer.shape}; tensor {self._tensor.name!r} is {self._tensor.dtype} "
                f"{self._tensor.shape}"
            )
        self._routes.clear()
        self._last_shape = None
        self._buffer = buffer

    def _remember(self, key: _Key, route: _Route) -> _Route:
        if len(self._routes) >= _MOST_ROUTES:
            self._routes.clear()
        self._routes[key] = route
        return route

    def _route(self, key: _Key, buffer: NDArray[Any]) -> _Route:
        shape, is_bgr, height_px, width_px = key
        geometry = locate(self._steps, height_px, width_px)
        if self._plan is None:
            return _Route(geometry)
        walk = _Walk(shape, is_bgr=is_bgr)
        for step in self._plan.steps:
            walk.add(step)
        tables = self._plan.tables[walk.channels]
        for step in self._plan.late:
            walk.add(step)
        if tables is None or walk.laid_out(self._spec.layout.lower()) != self._spec.shape[1:]:
            return _Route(geometry)
        if walk.channels == 3 and self._spec.layout.lower() == CHANNELS_FIRST:
            return _Route(geometry, walk.stages(None), put_planes(buffer[0], tables, turned=walk.is_turned))
        view = buffer.reshape(walk.shape)
        if is_same_for_all(tables):
            walk.turn()
        put = put_into(view, tables, turned=walk.is_turned)
        return _Route(geometry, walk.stages(view if is_identity(tables) else None), put)


class _Walk:
    """Goes through the steps with an image of one size, and notes what is to be done to its pixels."""

    def __init__(self, shape: tuple[int, ...], *, is_bgr: bool) -> None:
        self.channels = 1 if len(shape) == 2 else 3
        self._height_px, self._width_px = shape[:2]
        self._is_bgr = is_bgr
        self._wants_bgr = False
        self._made: list[tuple[tuple[int, ...], _Maker]] = []

    @property
    def is_turned(self) -> bool:
        """Whether the channels lie the other way round than the steps so far say."""
        return self._is_bgr != self._wants_bgr

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the pixels as OpenCV takes them: without an axis of one channel."""
        size = (self._height_px, self._width_px)
        return size if self.channels == 1 else (*size, self.channels)

    def laid_out(self, layout: str) -> tuple[int, ...]:
        """The shape in a model's layout, without batch."""
        sizes = {"h": self._height_px, "w": self._width_px, "c": self.channels}
        return () if "c" not in layout and self.channels > 1 else tuple(sizes[letter] for letter in layout[1:])

    def stages(self, last: Image | None) -> tuple[_Stage, ...]:
        """What is to be done, each in memory of its own, the last of them in `last` if that is given."""
        arrays = [np.empty(shape, np.uint8) for shape, _ in self._made]
        if arrays and last is not None:
            arrays[-1] = last
        return tuple(make(out) for out, (_, make) in zip(arrays, self._made, strict=True))

    def add(self, step: Step) -> None:
        """Raises InvalidInput if it does not fit this size."""
        if isinstance(step, Geometric):
            self._move(step)
        elif isinstance(step, Grey) and self.channels == 3:
            self.turn()
            self.channels = 1
            self._note(lambda _: lambda pixels: grey(pixels, step))
        elif isinstance(step, Colour):
            self._wants_bgr = step.order is ColourOrder.BGR
            if self.channels == 1:
                self.channels = 3
                self._is_bgr = self._wants_bgr
                self._note(_converter(cv2.COLOR_GRAY2BGR))

    def turn(self) -> None:
        """Red and blue change places if they must."""
        if self.is_turned and self.channels == 3:
            self._note(_converter(cv2.COLOR_BGR2RGB))
        self._is_bgr = self._wants_bgr

    def _move(self, step: Geometric) -> None:
        to = place(step, self._height_px, self._width_px)
        is_resized = (to.inner_height_px, to.inner_width_px) != (self._height_px, self._width_px)
        if is_resized and not isinstance(step, CenterCrop) and step.interpolation is Interpolation.CUBIC:
            self.turn()
        self._height_px, self._width_px = to.height_px, to.width_px
        if isinstance(step, CenterCrop):
            self._note(_cropper(to))
        elif isinstance(step, Letterbox):
            self._note(_letterboxer(to, step, is_resized=is_resized))
        elif is_resized:
            self._note(_resizer(to, INTERPOLATION[step.interpolation]))

    def _note(self, make: _Maker) -> None:
        self._made.append((self.shape, make))


def _plan(steps: tuple[Step, ...], tensor: TensorSpec) -> _Plan | None:
    """None if what follows the first step in float32 is more than arithmetic on single values."""
    first = next((at for at, step in enumerate(steps) if isinstance(step, Scale | Normalize)), len(steps))
    tail = steps[first:]
    if not all(isinstance(step, Scale | Normalize | Colour) for step in tail):
        return None
    late = tuple(step for step in tail if isinstance(step, Colour))
    return _Plan(steps[:first], late, {channels: fold(tail, channels, tensor) for channels in (1, 3)})


def _reduce_to(steps: tuple[Step, ...]) -> tuple[int, int] | None:
    first = steps[0] if steps else None
    return (first.height_px, first.width_px) if isinstance(first, Resize) and first.reduced_decode else None


def _converter(code: int) -> _Maker:
    return lambda out: lambda pixels: cv2.cvtColor(pixels, code, out)


def _cropper(to: Place) -> _Maker:
    rows = slice(-to.top, to.height_px - to.top)
    columns = slice(-to.left, to.width_px - to.left)
    return lambda _: lambda pixels: pixels[rows, columns]


def _resizer(to: Place, how: int) -> _Maker:
    size = (to.inner_width_px, to.inner_height_px)
    return lambda out: lambda pixels: cv2.resize(pixels, size, out, 0, 0, how)


def _letterboxer(to: Place, step: Letterbox, *, is_resized: bool) -> _Maker:
    bottom, right = to.top + to.inner_height_px, to.left + to.inner_width_px
    size, how = (to.inner_width_px, to.inner_height_px), INTERPOLATION[step.interpolation]

    def make(out: NDArray[Any]) -> _Stage:
        inner = out[to.top : bottom, to.left : right]
        strips = [strip for strip in (out[: to.top], out[bottom:], out[:, : to.left], out[:, right:]) if strip.size]

        def letterbox(pixels: NDArray[Any]) -> NDArray[Any]:
            # Every time: an engine may use its input's memory for something else.
            for strip in strips:
                strip[...] = step.fill
            made = cv2.resize(pixels, size, inner, 0, 0, how) if is_resized else pixels
            if made is not inner:
                np.copyto(inner, made)
            return out

        return letterbox

    return make
