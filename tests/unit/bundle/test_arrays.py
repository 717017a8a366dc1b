import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgeloop.bundle.arrays import from_npy, to_npy
from edgeloop.contracts.errors import Corrupt

arrays = hnp.arrays(
    dtype=st.sampled_from([np.dtype(name) for name in ("uint8", "int8", "float32", "float64", "int64")]),
    shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4),
)


def _npy(header: str, data: bytes = b"\0" * 4) -> bytes:
    """A version 1.0 file with this header. Source: NEP 1."""
    raw = header.encode("latin1")
    return npy.magic(1, 0) + len(raw).to_bytes(2, "little") + raw + data


@given(arrays)
def test_array_comes_back_bit_for_bit(array: NDArray[Any]) -> None:
    back = from_npy(to_npy(array), what="a")
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def test_scalar_keeps_its_shape() -> None:
    assert from_npy(to_npy(np.array(1.5, np.float32)), what="a").shape == ()


def test_transposed_array_comes_back_equal() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert from_npy(to_npy(array), what="a").tolist() == array.tolist()


def test_same_values_give_the_same_bytes_whatever_their_memory_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert to_npy(array) == to_npy(np.asfortranarray(array))


def test_read_array_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        from_npy(to_npy(np.zeros(3, np.float32)), what="a")[0] = 1


def test_numpy_itself_reads_what_is_written(tmp_path: Any) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(to_npy(np.arange(6, dtype=np.int8).reshape(2, 3)))
    assert np.load(path, allow_pickle=False).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_pickle_is_never_loaded() -> None:

    header = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    with pytest.raises(Corrupt, match="object"):
        from_npy(_npy(header, b"\x80\x04cos\nsystem\n."), what="a")


@pytest.mark.parametrize(
    "descr", ["'<U4'", "'<M8[s]'", "'<c8'", "'|V4'", "'<f2'", "'|b1'", "[('a', '<f4')]", "'?!'", "3"]
)
def test_dtype_that_no_bundle_has_is_refused(descr: str) -> None:
    with pytest.raises(Corrupt, match="not a usable"):
        from_npy(_npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}\n"), what="the golden inputs")


@pytest.mark.parametrize(
    "shape",
    ["(1000000000,)", "(100000, 100000, 100000)", "(99999999999999999999999999,)", "(0, 10**9)", "(2,)", "()", "(0,)"],
)
def test_header_that_claims_another_shape_than_the_data_has_is_refused(shape: str) -> None:
    data = b"\0" * 4 if shape != "()" else b"\0" * 8
    with pytest.raises(Corrupt, match="not a usable"):
        from_npy(_npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n", data), what="a")


def test_header_that_claims_a_huge_shape_allocates_nothing() -> None:
    data = _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000,), }\n")
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            from_npy(data, what="a")
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_000_000


def test_negative_size_is_refused() -> None:
    with pytest.raises(Corrupt):
        from_npy(_npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"), what="a")


def test_fortran_order_is_refused() -> None:
    with pytest.raises(Corrupt, match="order"):
        from_npy(_npy("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 1), }\n"), what="a")


@pytest.mark.parametrize(
    "header",
    ["", "\0", "{", "{'descr': '<f4', 'shape': (1,", "'''", "  x\n y", "(" * 5000, "-" * 5000 + "1", "x" * 20_000,
     "{[]: 1}", "{'descr': '<f4', 'fortran_order': False, 'shape': (1L,), }"],
    ids=lambda header: repr(header[:20]),
)  # fmt: skip
def test_header_that_is_no_header_is_corrupt(header: str) -> None:
    with pytest.raises(Corrupt, match="not a usable"):
        from_npy(_npy(header), what="a")


def test_truncated_array_is_corrupt() -> None:
    whole = to_npy(np.arange(10, dtype=np.float32))
    for size in range(len(whole)):
        with pytest.raises(Corrupt):
            from_npy(whole[:size], what="a")


def test_bytes_after_the_array_are_corrupt() -> None:
    with pytest.raises(Corrupt):
        from_npy(to_npy(np.arange(10, dtype=np.float32)) + b"\0\0\0\0", what="a")


def test_newer_format_version_is_corrupt() -> None:
    whole = to_npy(np.arange(10, dtype=np.float32))
    with pytest.raises(Corrupt, match="version"):
        from_npy(whole[:6] + b"\x02\x00" + whole[8:], what="a")


@given(st.binary(max_size=200))
def test_any_other_bytes_are_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        from_npy(data, what="a")
