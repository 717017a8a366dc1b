"""Whether every number of a message is finite.

MessagePack carries NaN and infinity, JSON does not: what holds one can be taken and stored, and then never be told
again. So a hub asks this of all that devices say of themselves and of what they saw. Which fields of a type can hold a
float is found out once, since a hub looks through 20,000 readings a second.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import chain
from math import isfinite
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import inspect

_Check = Callable[[Any], bool]
_NUMBERS = {inspect.FloatType, inspect.IntType, inspect.NoneType}


def is_finite(value: msgspec.Struct) -> bool:
    """False if a float in it is NaN or infinite, at whatever depth.

    >>> from edgeloop.contracts.prediction import Scored
    >>> is_finite(Scored("cat", 0.5)), is_finite(Scored("cat", float("nan")))
    (True, False)
    """
    check = _struct_check(type(value))
    return check is None or check(value)


def are_finite(values: Sequence[msgspec.Struct]) -> bool:
    """The same of many of one type: in one go, which takes half the time. True of none.

    >>> from edgeloop.contracts.prediction import Scored
    >>> are_finite([Scored("cat", 0.5), Scored("dog", float("inf"))])
    False
    """
    kinds = {type(value) for value in values}
    assert len(kinds) <= 1, kinds
    return all(_many_check(kind)(values) for kind in kinds)


@cache
def _many_check(kind: type[Any]) -> Callable[[Sequence[Any]], bool]:
    """Field by field and not value by value: the fewer steps between, the sooner it is done."""
    shape = inspect.type_info(kind)
    assert isinstance(shape, inspect.StructType)
    numbers = [field.name for field in shape.fields if _is_number(field.type)]
    checks = [
        partial(_of_field, attrgetter(field.name), check) for field in shape.fields if (check := _each(field.type))
    ]
    numbers_of = _getter(numbers)

    def check_many(values: Sequence[Any]) -> bool:
        return _all_finite(chain.from_iterable(map(numbers_of, values))) and all(check(values) for check in checks)

    return check_many


def _of_field(get: Callable[[Any], Any], check: Callable[[list[Any]], bool], values: Sequence[Any]) -> bool:
    return check([*filter(None, map(get, values))])


def _each(shape: inspect.Type) -> Callable[[list[Any]], bool] | None:
    """The check of a field of many, which is no plain number."""
    if isinstance(shape, inspect.StructType):
        return None if _struct_check(shape.cls) is None else _many_check(shape.cls)
    if isinstance(shape, inspect.VarTupleType | inspect.ListType):
        items = _items_check(shape.item_type)
        return None if items is None else lambda many: items(chain.from_iterable(many))
    check = _check(shape)
    return None if check is None else lambda many: all(map(check, many))


@cache
def _struct_check(kind: type[Any]) -> _Check | None:
    """The check of a type, None where no field can hold a float."""
    numbers, parts = _floats_of(kind)
    if not numbers and not parts:
        return None
    numbers_of, parts_of, checks = _getter(numbers), _getter([name for name, _ in parts]), [one for _, one in parts]

    def check_struct(value: Any) -> bool:
        if not (isfinite(sum(filter(None, numbers_of(value)))) or _all_finite(numbers_of(value))):
            return False
        for part, check in zip(parts_of(value), checks):  # noqa: SIM110, B905 - `all` takes twice as long
            if part and not check(part):
                return False
        return True

    return check_struct


def _floats_of(kind: type[Any], within: str = "") -> tuple[list[str], list[tuple[str, _Check]]]:
    """Where its numbers are, as dotted names, and its other fields that can hold some, with their checks."""
    numbers, parts = [], []
    shape = inspect.type_info(kind)
    assert isinstance(shape, inspect.StructType)
    for field in shape.fields:
        name = within + field.name
        if _is_number(field.type):
            numbers.append(name)
        elif isinstance(field.type, inspect.StructType):
            more_numbers, more_parts = _floats_of(field.type.cls, f"{name}.")
            numbers += more_numbers
            parts += more_parts
        elif (check := _check(field.type)) is not None:
            parts.append((name, check))
    return numbers, parts


def _getter(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    if len(names) > 1:
        return attrgetter(*names)
    if not names:
        return lambda _: ()
    one = attrgetter(names[0])
    return lambda value: (one(value),)


def _check(shape: inspect.Type) -> _Check | None:
    """The check of a field that is no plain number, for values that are not empty."""
    match shape:
        case inspect.Metadata():
            return _check(shape.type)
        case inspect.StructType():
            return _struct_check(shape.cls)
        case inspect.VarTupleType() | inspect.ListType():
            return _items_check(shape.item_type)
        case inspect.DictType():
            check = _items_check(shape.value_type)
            return None if check is None else lambda value: check(value.values())
        case inspect.UnionType():
            return _union_check(shape)
    return None


def _items_check(item: inspect.Type) -> _Check | None:
    if _is_number(item):
        return _all_finite
    if isinstance(item, inspect.StructType):
        numbers, parts = _floats_of(item.cls)
        if numbers and not parts:  # the scores of labels, the edges of boxes: in one go
            each: Callable[[Any], Any] = attrgetter(*numbers)
            if len(numbers) == 1:
                return lambda items: _all_finite(map(each, items))
            return lambda items: _all_finite(chain.from_iterable(map(each, items)))
    check = _check(item)
    return None if check is None else lambda items: all(map(check, items))


def _union_check(shape: inspect.UnionType) -> _Check | None:
    """By what the value is: structs by their type; beside them a message has nothing that holds floats."""
    checks = {one.cls: check for one in shape.types if isinstance(one, inspect.StructType) if (check := _check(one))}
    assert not any(_check(one) for one in shape.types if not isinstance(one, inspect.StructType)), shape
    if not checks:
        return None

    def check_union(value: Any) -> bool:
        check = checks.get(type(value))
        return check is None or check(value)

    return check_union


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
