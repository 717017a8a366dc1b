import io
import random
import struct
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.bundle.patch import (
    BLOCK_BYTES,
    LEAST_BYTES,
    REACH_BYTES,
    apply_patch,
    is_worth,
    pack_block,
    pack_head,
    windows,
)
from edgeloop.contracts.errors import Corrupt

MIB = 1024 * 1024
HEAD_BYTES = 24


def _patch(want: bytes, base: bytes) -> bytes:
    """As the cloud makes it, block by block."""
    blocks = (
        pack_block(
            want[one.start : one.stop], base[one.base_start : one.base_stop], one, grown_bytes=len(want) - len(base)
        )
        for one in windows(len(want), len(base))
    )
    return pack_head(len(want), len(base)) + b"".join(blocks)


def _applied(patch: bytes, base: bytes, *, result_bytes: int) -> bytes:
    parts: list[bytes] = []
    apply_patch(io.BytesIO(patch), io.BytesIO(base) if base else None, parts.append, result_bytes=result_bytes)
    return b"".join(parts)


def _block(kind: int, part_bytes: int, packed: bytes, *, start: int = 0, near_bytes: int = 0) -> bytes:
    """A block that says whatever a stranger likes."""
    return struct.pack("<BIQII", kind, part_bytes, start, near_bytes, len(packed)) + packed


def _noise(size_bytes: int, *, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size_bytes)


# ---- what is made is what was wanted


@given(want=st.binary(max_size=5000), base=st.binary(max_size=5000))
def test_any_bytes_come_out_of_any_others(want: bytes, base: bytes) -> None:
    assert _applied(_patch(want, base), base, result_bytes=len(want)) == want


@given(
    base=st.binary(min_size=64, max_size=5000),
    at=st.integers(0, 64),
    insert=st.binary(max_size=64),
    cut=st.integers(0, 64),
)
def test_any_change_of_a_file_comes_out(base: bytes, at: int, insert: bytes, cut: int) -> None:
    want = base[:at] + insert + base[at + cut :]
    assert _applied(_patch(want, base), base, result_bytes=len(want)) == want


@pytest.mark.parametrize("size_bytes", [BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 7])
@pytest.mark.parametrize("base_bytes", [0, 1, BLOCK_BYTES, 4 * BLOCK_BYTES + 3])
def test_files_of_many_blocks_come_out(size_bytes: int, base_bytes: int) -> None:
    want, base = _noise(size_bytes), _noise(base_bytes)
    assert _applied(_patch(want, base), base, result_bytes=size_bytes) == want


def test_difference_is_byte_by_byte_for_every_pair_of_bytes() -> None:
    base = bytes(range(256)) * 256
    want = bytes(byte for byte in range(256) for _ in range(256))
    patch = pack_head(len(want), len(base)) + _block(
        1,
        len(want),
        zstandard.compress(bytes((one - other) % 256 for one, other in zip(want, base, strict=True))),
        near_bytes=len(base),
    )
    assert _applied(patch, base, result_bytes=len(want)) == want


# ---- what it is good for


def test_new_end_of_a_large_file_is_a_small_patch() -> None:
    base = _noise(3 * MIB)
    want = base[:-5000] + _noise(5000, seed=2)
    assert len(_patch(want, base)) < 5000 + 3 * 200


def test_small_changes_everywhere_are_a_small_patch() -> None:
    base = _noise(MIB)
    draw = random.Random(3)
    want = bytes((byte + draw.choice((0, 0, 0, 1, -1))) % 256 for byte in base)
    assert len(_patch(want, base)) < 0.25 * len(want), "as a difference; as text that is alike there is nothing to find"


@pytest.mark.parametrize("shift_bytes", [-999, 1, 40_000])
def test_what_moved_within_reach_is_found(shift_bytes: int) -> None:
    base = _noise(3 * MIB)
    want = base[-shift_bytes:] if shift_bytes < 0 else _noise(shift_bytes, seed=2) + base
    assert abs(shift_bytes) < REACH_BYTES
    assert len(_patch(want, base)) < 0.01 * len(want) + abs(shift_bytes)


def test_without_a_base_it_is_the_packed_file() -> None:
    want = b'{"label": "cat"},' * 10_000
    assert len(_patch(want, b"")) < 0.01 * len(want)


@pytest.mark.parametrize(
    ("patch_bytes", "whole_bytes", "expected"),
    [
        (9_000, 10_000, False),
        (8_900, 10_000, True),
        (90_001, 100_000, False),
        (90_000, 100_000, True),
        (0, LEAST_BYTES, True),
    ],
)
def test_patch_is_worth_it_from_a_tenth_and_a_kilobyte_less(patch_bytes: int, whole_bytes: int, expected: bool) -> None:
    assert is_worth(patch_bytes, whole_bytes) is expected


# ---- what strangers may send


@given(junk=st.binary(max_size=300))
def test_junk_is_refused_and_nothing_else_happens(junk: bytes) -> None:
    with pytest.raises(Corrupt):
        _applied(junk, b"base", result_bytes=1000)


@given(junk=st.binary(max_size=300), base=st.binary(max_size=50))
def test_junk_after_a_sound_head_makes_no_more_than_was_asked_for(junk: bytes, base: bytes) -> None:
    parts: list[bytes] = []
    with pytest.raises(Corrupt):
        apply_patch(
            io.BytesIO(pack_head(1000, len(base)) + junk),
            io.BytesIO(base) if base else None,
            parts.append,
            result_bytes=1000,
        )
    assert sum(map(len, parts)) <= 1000


@pytest.mark.parametrize("at", [0, 5, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 3, -1])
def test_truncated_patch_is_refused(at: int) -> None:
    want, base = _noise(5000), _noise(5000, seed=2)
    with pytest.raises(Corrupt, match="ends early"):
        _applied(_patch(want, base)[:at], base, result_bytes=5000)


def test_patch_that_goes_on_is_refused() -> None:
    want = _noise(5000)
    with pytest.raises(Corrupt, match="goes on after"):
        _applied(_patch(want, b"") + b"x", b"", result_bytes=5000)


def test_patch_for_another_base_or_result_is_refused() -> None:
    want, base = _noise(5000), _noise(4000, seed=2)
    patch = _patch(want, base)
    with pytest.raises(Corrupt, match="from 4,000 to 5,000 bytes"):
        _applied(patch, base[:-1], result_bytes=5000)
    with pytest.raises(Corrupt, match="from 4,000 to 5,000 bytes"):
        _applied(patch, base, result_bytes=6000)
    with pytest.raises(Corrupt, match="from 4,000 to 5,000 bytes"):
        _applied(patch, b"", result_bytes=5000)


def test_damaged_base_gives_other_bytes_or_is_refused_and_never_what_was_wanted() -> None:
    base = _noise(5000)
    want = base[:2000] + b"new" + base[2003:]
    try:
        made = _applied(_patch(want, base), bytes(5000), result_bytes=5000)
    except Corrupt:
        return
    assert made != want


def test_form_of_the_future_is_refused_by_its_name() -> None:
    with pytest.raises(Corrupt, match="elpatch9"):
        _applied(b"elpatch9" + bytes(16), b"", result_bytes=1000)


@pytest.mark.parametrize("kind", [2, 255])
def test_unknown_kind_of_block_is_refused(kind: int) -> None:
    block = _block(kind, 1000, zstandard.compress(bytes(1000)))
    with pytest.raises(Corrupt, match=f"of kind {kind}"):
        _applied(pack_head(1000, 0) + block, b"", result_bytes=1000)


BOMB = zstandard.compress(bytes(64 * MIB))


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(_block(0, 1000, BOMB), id="more than the block says"),
        pytest.param(_block(0, 64 * MIB, BOMB), id="more than a block may"),
        pytest.param(_block(0, 0, BOMB), id="nothing"),
        pytest.param(_block(0, 1000, b"\0" * 20)[:-20] + b"", id="no frame"),
        pytest.param(struct.pack("<BIQII", 0, 1000, 0, 2**32 - 1, 100), id="a base without an end"),
        pytest.param(struct.pack("<BIQII", 0, 1000, 2**63, 10, 100) + bytes(100), id="beyond the base"),
        pytest.param(struct.pack("<BIQII", 0, 1000, 0, 0, 2**32 - 1), id="packed without an end"),
        pytest.param(_block(1, 1000, zstandard.compress(bytes(1000)), near_bytes=10), id="a difference to less"),
        pytest.param(_block(0, 1000, zstandard.compress(bytes(1000)) + b"x"), id="a frame and more"),
    ],
)
def test_bombs_are_refused_within_bounded_memory(block: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Corrupt):
            _applied(pack_head(1000, 16) + block, b"sixteen bytes ok", result_bytes=1000)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * MIB


def test_large_files_take_no_more_memory_than_a_few_blocks() -> None:
    want, base = _noise(24 * MIB), _noise(24 * MIB, seed=2)
    patch = _patch(want, base)
    tracemalloc.start()
    try:
        apply_patch(io.BytesIO(patch), io.BytesIO(base), lambda _: None, result_bytes=len(want))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 * MIB
