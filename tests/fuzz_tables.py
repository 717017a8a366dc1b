"""Malformed tables, and the ways in that they take."""

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from edgeloop.contracts.manifest import InputSpec, Modality
from edgeloop.contracts.preprocess import FillMissing, Missing, Normalize, Scale, Step, Window
from edgeloop.runtime.engines.port import TensorSpec
from edgeloop.runtime.input.arrays import ArrayFront
from edgeloop.runtime.input.port import Front
from edgeloop.runtime.input.series import SeriesFront
from edgeloop.runtime.sources.open import make_cut, open_source
from fuzz_bytes import Mutator, mutated
from fuzz_case import Case, by_file, in_blocks, take_frames

_CELLS = (
    b"", b" ", b"nan", b"NaN", b"inf", b"-inf", b"1e999", b"-1e39", b"1e-999", b"0x10", b"1_000", b"--1", b"1,5",
    b'"1"', b'"1', b'1"', b'"1\n2"', b"\0", b"1\0", "\u0661".encode(), "\uff11\uff12".encode(), b"\xff", b"\x1b[31m",
    b"1" * 400, b"1" * 5000, b"a" * 200_000, b"=1+1", b"1;2", b"\xef\xbb\xbf1", b"1\r2", b"True", b"9" * 400,
)  # fmt: skip

_NAMED = InputSpec("series", Modality.SERIES, (1, 4, 2), "ntc", (-1.0, 1.0), rate_hz=50, channels=("x", "y"))
_TURNED = InputSpec("series", Modality.SERIES, (1, 3, 4), "nct", (-1.0, 1.0))
_TENSOR = InputSpec("table", Modality.TENSOR, (1, 3), "nc", (-1.0, 1.0))
_FILL = FillMissing(Missing.LINEAR, 0.5)
_FRONTS: tuple[tuple[InputSpec, tuple[Step, ...], TensorSpec], ...] = (
    (
        _NAMED,
        (Window(4, 2, pad=True), _FILL, Normalize((0.0, 1.0), (2.0, 3.0))),
        TensorSpec("series", (1, 4, 2), "int8", 0.1, 0),
    ),
    (
        _NAMED,
        (Window(4, 4), FillMissing(Missing.PREVIOUS, 1.0), Scale(1e30)),
        TensorSpec("series", (1, 4, 2), "float32"),
    ),
    (_TURNED, (FillMissing(Missing.ZERO, 1.0),), TensorSpec("series", (1, 3, 4), "float32")),
    (_TURNED, (FillMissing(Missing.ZERO, 1.0),), TensorSpec("series", (1, 3, 4), "int16")),
    (_TURNED, (Window(4, 1), _FILL), TensorSpec("series", (1, 3, 4), "uint8", 0.5, 128)),
    (_TENSOR, (Scale(0.5, 1.0),), TensorSpec("table", (1, 3), "float32")),
)


class Tables:
    """Tables by every way that a bundle takes them. folder: where a case may write a file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "table.csv"
        two, three = _seeds()
        self._seeds, self._two = [*two, *three], len(two)
        self._ways = [
            (spec, steps, _front(spec, steps, tensor), np.zeros(tensor.shape, tensor.dtype))
            for spec, steps, tensor in _FRONTS
        ]

    def case(self, rng: Random) -> Case:
        """One table and its way."""
        spec, steps, front, buffer = rng.choice(self._ways)
        write = partial(_write, front, buffer)
        if rng.random() < 0.05:
            return _array(rng, spec, steps, write)
        fitting = self._seeds[: self._two] if spec is _NAMED else self._seeds[self._two :]
        name, data = mutated(rng, fitting if rng.random() < 0.9 else self._seeds, _OWN)
        direct = spec.modality is Modality.SERIES
        route = rng.choices(("write", "file", "stream", "pipe"), (55 * direct, 5, 20, 20))[0]
        if route == "file":
            opened = write if direct else lambda path: take_frames(open_source(path, spec, steps).frames(), write)
            return Case(route, name, data, partial(by_file, self._path, data, opened))
        if route == "stream":
            return Case(route, name, data, lambda: take_frames(open_source(data, spec, steps).frames(), write))
        if route == "pipe":
            blocks = in_blocks(data, rng.choice((1, 5, 64, 4096)))
            return Case(route, name, data, lambda: take_frames(_piped(spec, steps, blocks), write))
        return Case(route, name, data, lambda: write(data))


def _front(spec: InputSpec, steps: tuple[Step, ...], tensor: TensorSpec) -> Front:
    kind = SeriesFront if spec.modality is Modality.SERIES else ArrayFront
    return kind(spec, steps, tensor)


def _write(front: Front, buffer: Any, source: Any) -> None:
    front.write(source, buffer)


def _piped(spec: InputSpec, steps: tuple[Step, ...], blocks: Iterator[bytes]) -> Any:
    return make_cut(spec, steps).of_bytes("pipe", iter([blocks]), lambda: 0.0)


def _array(rng: Random, spec: InputSpec, steps: tuple[Step, ...], write: Any) -> Case:
    shape = rng.choice((spec.shape[1:], spec.shape[:0:-1], (4, 2), (4, 3), (3,), (2,), (4, 0), (), (1, 4, 2), (9, 2)))
    array = np.full(shape, rng.choice((0.0, 1.0, 2.0, float("nan"), float("inf"), 1e300, -1e38)))
    with np.errstate(over="ignore", invalid="ignore"):
        array = array.astype(
            rng.choice(("float64", "float32", "float32", "int64", "uint8", "bool", "complex64", "S4", "O"))
        )
    name = f"{array.dtype} {shape} of {array.flat[0] if array.size else 'nothing'}"
    if rng.random() < 0.5:
        return Case("array", name, b"", partial(write, array))
    return Case(
        "array stream", name, b"", lambda: take_frames(open_source([array, array], spec, steps).frames(), write)
    )


def _seeds() -> tuple[list[bytes], list[bytes]]:
    """Of two columns that can be found, and of three."""
    two = b"\n".join(b"%d,%.3f" % (row, row * 0.37) for row in range(4))
    three = b"\n".join(b"%d,%.2e,-%d" % (row, row * 0.5, row) for row in range(4))
    npy = io.BytesIO()
    np.save(npy, np.arange(12, dtype=np.float32).reshape(4, 3))
    return [
        two,
        two + b"\n",
        b"x,y\n" + two,
        b"t,y,x\n" + three,
        b'\xef\xbb\xbf"x","y"\r\n' + two.replace(b"\n", b"\r\n") + b"\r\n",
        b"x,y\n0,1\n,2\n1,\n3,4\n",
        b"x,y\n\n\n" + two.replace(b"\n", b"\n\n"),
    ], [
        three,
        b"a,b,c\n" + three,
        b"a,b,c\n0,1,2\nnan,,2\n1,2,3\n3,4,5\n",
        three.replace(b"\n", b"\r\n") + b"\r\n",
        npy.getvalue(),
    ]


def cell_changed(rng: Random, data: bytes) -> bytes:
    """A cell is something else, or one more or one less."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    cells = lines[at].split(b",")
    place = rng.randrange(len(cells))
    cells[place : place + rng.choice((1, 1, 1, 0))] = rng.choice(([rng.choice(_CELLS)], [], [rng.choice(_CELLS)] * 2))
    lines[at] = b",".join(cells)
    return b"\n".join(lines)


def lines_moved(rng: Random, data: bytes) -> bytes:
    """Lines left out, said many times, in another order."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at : at + 1] = rng.choice(([], [lines[at]] * 2, [lines[at]] * 300, [b""] * 50, [lines[at], lines[0]]))
    return b"\n".join(lines)


def ends_changed(rng: Random, data: bytes) -> bytes:
    """Other ends of lines, other separators, another encoding."""
    old, new = rng.choice(
        (
            (b"\n", b"\r\n"),
            (b"\n", b"\r"),
            (b"\n", b""),
            (b",", b";"),
            (b",", b"\t"),
            (b",", b",,"),
            (b",", b"\n"),
            (b"\n", b"\n\0"),
            (b".", b","),
            (b"x", b'"x'),
        )
    )
    made = data.replace(old, new)
    return made.decode("latin-1").encode(rng.choice(("latin-1", "latin-1", "utf-16", "utf-8-sig", "utf-32-le")))


_OWN: tuple[Mutator, ...] = (cell_changed, cell_changed, cell_changed, lines_moved, ends_changed)
