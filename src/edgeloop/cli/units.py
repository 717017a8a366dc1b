"""Sizes, times and ranges as people write them.

1 KB is 1024 bytes and 1 MB 1024 KB, as everywhere in edgeloop.
"""

import re

from edgeloop.contracts.errors import InvalidInput

_SIZES = {"B": 1, "KB": 1024, "MB": 1024**2, "GB": 1024**3}
_TIMES_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")
_RANGE = re.compile(r"\s*(-?[0-9]+(?:\.[0-9]+)?)\s*\.\.\s*(-?[0-9]+(?:\.[0-9]+)?)\s*")


def parse_size_bytes(text: str) -> int:
    """Bytes. Raises InvalidInput unless it is a number and B, KB, MB or GB.

    >>> parse_size_bytes("16KB"), parse_size_bytes("1.5 MB"), parse_size_bytes("900B")
    (16384, 1572864, 900)
    """
    number, unit = _split(text, "size", "16KB, 1.5MB or 900B")
    if unit.upper() not in _SIZES:
        raise InvalidInput(f"{text!r} is no size: unit {unit!r}; known: {', '.join(_SIZES)} (1 KB is 1024 bytes)")
    return int(number * _SIZES[unit.upper()])


def parse_duration_s(text: str) -> float:
    """Seconds. Raises InvalidInput unless it is a number and us, ms, s, min, h or d.

    >>> parse_duration_s("10min"), parse_duration_s("30s"), parse_duration_s("2ms")
    (600.0, 30.0, 0.002)
    """
    number, unit = _split(text, "duration", "10min, 30s or 2ms")
    if unit not in _TIMES_S:
        raise InvalidInput(f"{text!r} is no duration: unit {unit!r}; known: {', '.join(_TIMES_S)}")
    return number * _TIMES_S[unit]


def parse_range(text: str) -> tuple[float, float]:
    """Two numbers, the first one smaller. Raises InvalidInput on anything else.

    >>> parse_range("0..1"), parse_range("-1..1")
    ((0.0, 1.0), (-1.0, 1.0))
    """
    found = _RANGE.fullmatch(text)
    if found is None:
        raise InvalidInput(f"{text!r} is no range; write it as LOW..HIGH, such as 0..1 or -1..1")
    low, high = float(found[1]), float(found[2])
    if low >= high:
        raise InvalidInput(f"the range {text!r} is empty: {low:g} is not below {high:g}")
    return low, high


def _split(text: str, what: str, examples: str) -> tuple[float, str]:
    found = _NUMBER_AND_UNIT.fullmatch(text)
    if found is None:
        raise InvalidInput(f"{text!r} is no {what}; write a number and a unit, such as {examples}")
    return float(found[1]), found[2]
