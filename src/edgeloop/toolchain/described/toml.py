"""A TOML document to a contract type; what does not fit is told by its place, with what is known there.

Neighbour: `description` has the type.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from edgeloop.contracts.errors import InvalidInput

T = TypeVar("T")

_ERROR = re.compile(r"(?P<said>.*?)(?: - at `(?P<path>[^`]+)`(?: in `(?P<within>[^`]+)`)?)?", re.DOTALL)
_PART = re.compile(r"\.(?P<key>\w+)|\[(?P<index>\d+|\.\.\.)\]")
_KEY = re.compile(r"`(\w+)`")
_VALUE = re.compile(r"'(.*)'", re.DOTALL)


def decode_toml(
    text: str, kind: type[T], *, what: str, amend: Callable[[dict[str, Any]], None] = lambda _document: None
) -> T:
    """The document as `kind`. what: names it in errors. amend: changes it before it is checked. Raises InvalidInput.

    >>> from edgeloop.contracts.preprocess import Scale
    >>> decode_toml("x = 2.0", Scale, what="scale.toml")
    Traceback (most recent call last):
    ...
    edgeloop.contracts.errors.InvalidInput: scale.toml: unknown key 'x'; known there: step, factor, offset
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{what} is not TOML: {error}") from error
    endless = _not_finite(document, [])
    if endless is not None:
        raise InvalidInput(f"{what}: in {_place(endless)}: expected a finite number, got inf or nan")
    amend(document)
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{what}: {_explained(str(error), inspect.type_info(kind), document)}") from error


def _not_finite(node: Any, parts: list[str]) -> list[str] | None:
    """Where the first number stands that TOML can say and JSON, which a manifest is, cannot."""
    if isinstance(node, float) and not math.isfinite(node):
        return parts
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found = (_not_finite(value, [*parts, str(key)]) for key, value in below)
    return next((one for one in found if one is not None), None)


def _explained(said: str, kind: inspect.Type, document: dict[str, Any]) -> str:
    """msgspec's sentence, in a TOML writer's words."""
    found = _ERROR.fullmatch(said)
    assert found is not None
    what, path = found["said"], found["path"] or "$"
    if path == "key":
        what, path = f"{what} as a key", found["within"] or "$"
    parts = [one["key"] or one["index"] for one in _PART.finditer(path)]
    place = f"in {_place(parts)}: " if parts else ""
    known = _known(kind, document, parts)
    if "unknown field" in what:
        key = _first(_KEY, what)
        return f"{place}unknown key {key!r}{_offered(key, known)}"
    if "missing required field" in what:
        key = _first(_KEY, what)
        choice = _known(kind, document, [*parts, key])
        return f"{place}the key {key!r} is missing{'; known: ' + ', '.join(choice) if choice else ''}"
    if what.startswith("Invalid"):
        value = _first(_VALUE, what)
        return f"{place}{value!r} is not known{_offered(value, known)}"
    return f"{place}{what[0].lower()}{what[1:]}"


def _place(parts: list[str]) -> str:
    """preprocess, 1, interpolation: "[[preprocess]] number 2, interpolation"."""
    words: list[str] = []
    for part in parts:
        if part.isdecimal() and words:
            words[-1] = f"{words[-1]} number {int(part) + 1}"
        elif part != "...":
            words.append(part)
    return ", ".join(words)


def _offered(word: str, known: list[str]) -> str:
    if not known:
        return ""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; known there: {', '.join(known)}{f'; did you mean {close[0]!r}?' if close else ''}"


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else text


def _known(kind: inspect.Type, document: Any, parts: list[str]) -> list[str]:
    """The words that may stand at a place: a table's keys, a tag's or an enumeration's values."""
    node = document
    for index, part in enumerate(parts):
        tags = _tags(kind, part)
        if tags and index == len(parts) - 1:
            return tags
        kind, node = _step(_narrowed(kind, node), node, part)
    kind = _narrowed(kind, node)
    if isinstance(kind, inspect.StructType):
        return [*([kind.tag_field] if kind.tag_field else []), *(one.encode_name for one in kind.fields)]
    if isinstance(kind, inspect.DictType):
        kind = kind.key_type
    return [str(one.value) for one in kind.cls] if isinstance(kind, inspect.EnumType) else []


def _step(kind: inspect.Type, node: Any, part: str) -> tuple[inspect.Type, Any]:
    """One key or index further down, in the type and in the document."""
    if isinstance(kind, inspect.StructType):
        fields = {one.encode_name: one.type for one in kind.fields}
        return fields.get(part, inspect.AnyType()), node.get(part) if isinstance(node, dict) else None
    if isinstance(kind, inspect.VarTupleType):
        at = int(part) if part.isdecimal() else -1
        return kind.item_type, node[at] if isinstance(node, list) and 0 <= at < len(node) else None
    if isinstance(kind, inspect.DictType):
        return kind.value_type, None
    return inspect.AnyType(), None


def _narrowed(kind: inspect.Type, node: Any) -> inspect.Type:
    """Of a union, the member that the document chose by its tag; the only one that is not None, else."""
    if not isinstance(kind, inspect.UnionType):
        return kind
    members = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
    for one in members:
        if isinstance(one, inspect.StructType) and isinstance(node, dict) and node.get(one.tag_field) == one.tag:
            return one
    return members[0] if len(members) == 1 else inspect.AnyType()


def _tags(kind: inspect.Type, key: str) -> list[str]:
    """The tags of a union's members, if `key` is where they stand."""
    members: Iterable[inspect.Type] = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    return [str(one.tag) for one in members if isinstance(one, inspect.StructType) and one.tag_field == key]
