"""Recipes are data: what a field may hold stands in its type, and is checked where a step begins."""

import msgspec

from edgeloop.contracts.errors import InvalidInput


def require_in_range(recipe: msgspec.Struct) -> None:
    """Raise InvalidInput if a field holds what its type does not allow; a constructor does not look."""
    try:
        msgspec.convert(msgspec.to_builtins(recipe), type(recipe))
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the recipe {type(recipe).__name__} is out of range: {error}") from error
