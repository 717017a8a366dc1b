"""Words and paths as systemd reads them in a unit: whatever they hold, they mean themselves.

Three ways, since systemd reads settings in three ways. Source: systemd.syntax(7) on quoting, systemd.service(5) on
command lines, systemd.exec(5) on EnvironmentFile=. Shown by a property test with a parser of its own, and by systemd.
"""

import re

from edgeloop.contracts.errors import InvalidInput

_PLAIN = re.compile(r"[A-Za-z0-9_./:=@,+-]+")
_NAME_OF_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMED = {"\\": "\\\\", '"': '\\"', "%": "%%", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_OF_A_SHELL = str.maketrans({mark: f"\\{mark}" for mark in '"\\`$'})


def word(text: str) -> str:
    """A word of Environment=, or the program of ExecStart=: quoted, with C's escapes; % begins a specifier.

    Raises InvalidInput on what is no text: names of files may be any bytes.

    >>> word("a b%")
    '"a b%%"'
    """
    _require_text(text)
    if _PLAIN.fullmatch(text):
        return text
    return '"' + "".join(_NAMED.get(one) or _escaped(one) for one in text) + '"'


def argument(text: str) -> str:
    """A word of ExecStart= behind the program, where $ begins a variable, too. Raises as word.

    >>> argument("--source=$HOME"), argument("--rate-hz=1.0")
    ('"--source=$$HOME"', '--rate-hz=1.0')
    """
    return word(text).replace("$", "$$")


def listed_path(path: str) -> str:
    """A path in a list of paths, where quotes are known but no escapes of what cannot be printed. Raises InvalidInput.

    >>> listed_path("/media/my disk")
    '"/media/my disk"'
    """
    _require_printable(path)
    if _PLAIN.fullmatch(path):
        return path
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def sole_path(path: str) -> str:
    """A path that is all there is to a setting, where quotes would be part of it. Raises InvalidInput.

    >>> sole_path("/media/100% mine")
    '/media/100%% mine'
    """
    _require_printable(path)
    if path != path.strip() or path.endswith("\\"):
        raise InvalidInput(f"{path!r} ends in a space or a backslash, which a unit cannot hold; choose another folder")
    return path.replace("%", "%%")


def is_variable_name(text: str) -> bool:
    """Whether a variable may have this name."""
    return _NAME_OF_VARIABLE.fullmatch(text) is not None


def variable(name: str, value: str) -> str:
    """A line of a file of variables. Raises InvalidInput on a value of several lines.

    >>> variable("TOKEN", 'a"b')
    'TOKEN="a\\\\"b"'
    """
    _require_text(value)
    if any(ord(one) < ord(" ") for one in value):
        raise InvalidInput(f"the value of {name} holds control characters; give it in one line of text")
    return f'{name}="{value.translate(_OF_A_SHELL)}"'


def _escaped(one: str) -> str:
    return one if ord(one) >= ord(" ") and one != "\x7f" else f"\\x{ord(one):02x}"


def _require_text(text: str) -> None:
    if "\0" in text or any("\ud800" <= one <= "\udfff" for one in text):
        raise InvalidInput(f"{text!r} is no text in UTF-8, which a unit is written in; rename what it names")


def _require_printable(path: str) -> None:
    _require_text(path)
    if any(ord(one) < ord(" ") or one == "\x7f" for one in path):
        raise InvalidInput(f"{path!r} holds control characters, which this setting of a unit cannot; rename it")
