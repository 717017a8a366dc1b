"""Whether every number of a message is finite.

MessagePack carries NaN and infinity, JSON does not: what holds one can be taken and stored, and then never be told
again. So a hub asks this of all that devices say of themselves and of what they saw. Which fields of a type can hold a
float is found out once, and many values are looked at field by field and not one by one, since a hub looks through
20,000 readings a second.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain
from math import isfinite
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import inspect

_Check = Callable[[list[Any]], bool]
"""Of many values of one field, none of them empty."""
_NUMBERS = {inspect.FloatType, inspect.IntType, inspect.NoneType}


def is_finite(value: msgspec.Struct) -> bool:
    """False if a float in it is NaN or infinite, at whatever depth.

    >>> from edgeloop.contracts.prediction import Scored
    >>> is_finite(Scored("cat", 0.5)), is_finite(Scored("cat", float("nan")))
    (True, False)
    """
    return are_finite((value,))


def are_finite(values: Sequence[msgspec.Struct]) -> bool:
    """The same of many of one type: in one go, which takes half the time. True of none.

    >>> from edgeloop.contracts.prediction import Scored
    >>> are_finite([Scored("cat", 0.5), Scored("dog", float("inf"))])
    False
    """
    kinds = {type(value) for value in values}
    assert len(kinds) <= 1, kinds
    checks = map(_struct_check, kinds)
    return all(check(list(values)) for check in checks if check is not None)


@cache
def _struct_check(kind: type[Any]) -> _Check | None:
    """The check of a type, None where no field can hold a float."""
    shape = inspect.type_info(kind)
    assert isinstance(shape, inspect.StructType)
    numbers = [attrgetter(field.name) for field in shape.fields if _is_number(field.type)]
    parts = [
        (attrgetter(field.name), check)
        for field in shape.fields
        if not _is_number(field.type) and (check := _check(field.type)) is not None
    ]
    if not numbers and not parts:
        return None

    def check_structs(values: list[Any]) -> bool:
        if not _all_finite(chain.from_iterable([map(get, values) for get in numbers])):
            return False
        for get, check in parts:
            filled = [*filter(None, map(get, values))]
            if filled and not check(filled):  # most fields of most messages are empty
                return False
        return True

    return check_structs


def _check(shape: inspect.Type) -> _Check | None:
    """None where it can hold no float."""
    if _is_number(shape):
        return _all_finite
    match shape:
        case inspect.Metadata():
            return _check(shape.type)
        case inspect.StructType():
            return _struct_check(shape.cls)
        case inspect.VarTupleType() | inspect.ListType():
            items = _check(shape.item_type)
            return None if items is None else lambda many: items([*chain.from_iterable(many)])
        case inspect.DictType():
            held = _check(shape.value_type)
            return None if held is None else lambda many: held([*chain.from_iterable(one.values() for one in many)])
        case inspect.UnionType():
            return _union_check(shape)
    return None


def _union_check(shape: inspect.UnionType) -> _Check | None:
    """By what the values are: structs by their type; beside them a message has nothing that holds floats."""
    checks = {one.cls: check for one in shape.types if isinstance(one, inspect.StructType) if (check := _check(one))}
    assert not any(_check(one) for one in shape.types if not isinstance(one, inspect.StructType)), shape
    if not checks:
        return None
    return lambda many: all(check([one for one in many if type(one) is kind]) for kind, check in checks.items())


def _is_number(shape: inspect.Type) -> bool:
    """A float, or a float or nothing."""
    if isinstance(shape, inspect.Metadata):
        return _is_number(shape.type)
    if isinstance(shape, inspect.UnionType):
        kinds = {type(one.type if isinstance(one, inspect.Metadata) else one) for one in shape.types}
        return inspect.FloatType in kinds and kinds <= _NUMBERS
    return isinstance(shape, inspect.FloatType)


def _all_finite(values: Iterable[float | None]) -> bool:
    """By their sum, which is finite only if all are; numbers whose sum is too large are looked at one by one."""
    given = [*filter(None, values)]
    return isfinite(sum(given)) or all(map(isfinite, given))
