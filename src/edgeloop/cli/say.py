"""What commands say without a table: JSON for machines, and one way to say that a service is ready.

Apart from `show`: a device's agent says that much, and no more, and need not hold rich for it.
"""

import sys
from typing import Any

from edgeloop.contracts.codec import to_json


def emit_json(value: Any) -> None:
    """One line of JSON on standard output."""
    _say(to_json(value).decode())


def ready(what: str, *, as_json: bool, **facts: str) -> None:
    """A service answers now."""
    if as_json:
        emit_json({"ready": what, **facts})
        return
    told = ", ".join(f"{name} {value}" for name, value in facts.items())
    _say(f"{what} is ready: {told}. Ctrl-C ends it.")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def printable(text: str) -> str:
    """What of a name a terminal may be given: control characters are shown as "?".

    >>> printable("cat\\x1b[2J")
    'cat?[2J'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)
