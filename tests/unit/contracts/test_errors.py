import re

import pytest

from edgeloop.contracts import errors
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound, by_code

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EdgeloopError)]
LEAVES = [kind for kind in CLASSES if kind is not EdgeloopError]


def test_docstring_draws_every_error_and_no_other() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    assert drawn == {kind.__name__ for kind in LEAVES}


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in CLASSES]
    assert len(codes) == len(set(codes))


def test_exit_codes_are_unique() -> None:
    codes = [kind.exit_code for kind in CLASSES]
    assert len(codes) == len(set(codes))


def test_no_exit_code_says_success() -> None:
    assert all(kind.exit_code > 0 for kind in CLASSES)


def test_every_http_status_is_a_failure() -> None:
    assert all(400 <= kind.http_status < 600 for kind in CLASSES)


@pytest.mark.parametrize("kind", CLASSES)
def test_code_leads_back_to_its_class(kind: type[EdgeloopError]) -> None:
    assert by_code(kind.code) is kind


def test_unknown_code_is_the_root() -> None:
    assert by_code("from_the_future") is EdgeloopError


def test_invalid_input_is_a_value_error_to_those_who_do_not_know_us() -> None:
    assert issubclass(InvalidInput, ValueError)


def test_not_found_is_a_lookup_error_to_those_who_do_not_know_us() -> None:
    assert issubclass(NotFound, LookupError)


@pytest.mark.parametrize("control", ["\x1b[2J", "\0", "\r", "\x9b", "\u202e"])
def test_what_a_message_repeats_cannot_act_on_a_terminal(control: str) -> None:
    shown = str(InvalidInput(f"no label 'a{control}b'"))
    assert shown.isprintable()
    assert shown == f"no label {f'a{control}b'!r}"


def test_message_keeps_its_lines_and_letters() -> None:
    assert str(NotFound("tür 門:\n\tone\n\ttwo")) == "tür 門:\n\tone\n\ttwo"


def test_endless_message_is_cut() -> None:
    shown = str(InvalidInput("no label " + "a" * 100_000))
    assert shown.endswith("aaa ... (96,009 letters more)")
    assert len(shown) < 4100
