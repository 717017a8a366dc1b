"""What can become of bytes on the way: cut short, damaged, mixed up, or with fields that claim too much.

A mutator is a function of a seeded generator and a sound input, and gives what may still be sound, or not.
"""

from collections.abc import Callable, Sequence
from random import Random

Mutator = Callable[[Random, bytes], bytes]

EXTREMES = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xfe", b"\xff")
_MAGICS = (
    b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\x40\0\0\0WEBPVP8 ", b"RIFF\x40\0\0\0WAVEfmt ",
    b"P6 8 8 255\n", b"PK\x03\x04", b"\x93NUMPY\x01\0", b"1,2,3\n",
)  # fmt: skip


def truncated(rng: Random, data: bytes) -> bytes:
    """Its beginning; often most of it."""
    return data[: rng.choice((rng.randrange(len(data) + 1), max(0, len(data) - rng.randrange(1, 40))))]


def extended(rng: Random, data: bytes) -> bytes:
    """More behind its end."""
    return data + rng.randbytes(rng.choice((1, 3, 64, 4096)))


def bits_flipped(rng: Random, data: bytes) -> bytes:
    """Some bits the other way."""
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16, 64)) if made else 0):
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made)


def head_damaged(rng: Random, data: bytes) -> bytes:
    """Bits or fields of the first hundred bytes changed: where formats say what follows."""
    head, rest = data[:100], data[100:]
    return rng.choice((bits_flipped, field_set))(rng, head) + rest


def field_set(rng: Random, data: bytes) -> bytes:
    """A number of 1, 2, 4 or 8 bytes somewhere set to an extreme."""
    if not data:
        return rng.randbytes(4)
    width = rng.choice((1, 2, 4, 8))
    place = rng.randrange(len(data))
    number = rng.choice(
        (
            *(one * width for one in EXTREMES),
            (1 << 8 * width - 1).to_bytes(width, "little"),
            rng.randrange(1 << 8 * width).to_bytes(width, "big"),
        )
    )
    return data[:place] + number + data[place + width :]


def piece_moved(rng: Random, data: bytes) -> bytes:
    """A piece left out, said twice, cleared or put elsewhere."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.choice((1, 2, 4, 16, 64, 256, 1024)))
    piece, rest = data[start:end], data[:start] + data[end:]
    place = rng.randrange(len(rest) + 1)
    return rng.choice(
        (
            rest,
            data[:end] + piece + data[end:],
            data[:start] + bytes(end - start) + data[end:],
            rest[:place] + piece + rest[place:],
        )
    )


def noise(rng: Random, data: bytes) -> bytes:
    """Random bytes, sometimes behind the first bytes of a format."""
    return rng.choice((b"", data[: rng.randrange(1, 24)], *_MAGICS)) + rng.randbytes(rng.choice((0, 1, 7, 100, 2000)))


def splice(rng: Random, one: bytes, other: bytes) -> bytes:
    """The beginning of one and the end of the other."""
    return one[: rng.randrange(len(one) + 1)] + other[rng.randrange(len(other) + 1) :]


GENERIC: tuple[Mutator, ...] = (
    truncated,
    extended,
    bits_flipped,
    bits_flipped,
    head_damaged,
    head_damaged,
    field_set,
    piece_moved,
    noise,
)


def mutated(rng: Random, seeds: Sequence[bytes], own: Sequence[Mutator]) -> tuple[str, bytes]:
    """A seed after one to three changes, and their names; now and then none, so that what is sound stays sound.

    own: mutators that know the format; they come as often as those that do not.
    """
    data = rng.choice(seeds)
    names = []
    for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 1, 2, 2, 3))):
        if rng.random() < 0.1:
            names.append("splice")
            data = splice(rng, data, rng.choice(seeds))
            continue
        mutate = rng.choice(own if own and rng.random() < 0.5 else GENERIC)
        names.append(mutate.__name__)
        data = mutate(rng, data)
    return "+".join(names) or "untouched", data
