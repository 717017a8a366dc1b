import hashlib

import pytest

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.join import Join, parse_join_token, roots_fingerprint, secret_hash

SECRET = "s" * 43
IMAGES, DIRECTOR = b"images root", b"director root"


def _token() -> str:
    return str(Join(SECRET, roots_fingerprint(IMAGES, DIRECTOR)))


def test_token_gives_back_its_secret() -> None:
    assert parse_join_token(_token()).secret == SECRET


def test_token_survives_copying_with_spaces_around_it() -> None:
    assert parse_join_token(f"  {_token()}\n") == parse_join_token(_token())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "el1",
        f"el2.{SECRET}.{'0' * 32}",
        f"el1.{SECRET[1:]}.{'0' * 32}",
        f"el1.{SECRET}.{'0' * 31}",
        f"el1.{SECRET}.{'G' * 32}",
        f"el1.{SECRET}.{'0' * 32}.more",
        f"el1.{'é' * 43}.{'0' * 32}",
    ],
)
def test_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"el1\.SECRET\.FINGERPRINT"):
        parse_join_token(text)


def test_refusing_a_token_does_not_print_it() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_join_token(f"el1.{SECRET}.x")
    assert SECRET not in str(caught.value)


def test_roots_that_the_token_was_made_for_are_taken() -> None:
    parse_join_token(_token()).check_roots(IMAGES, DIRECTOR)


@pytest.mark.parametrize("roots", [(IMAGES, b"other"), (b"other", DIRECTOR), (DIRECTOR, IMAGES), (b"", b"")])
def test_other_roots_are_refused(roots: tuple[bytes, bytes]) -> None:
    with pytest.raises(Refused, match="fingerprint"):
        parse_join_token(_token()).check_roots(*roots)


def test_fingerprint_does_not_confuse_where_one_root_ends_and_the_other_begins() -> None:
    assert roots_fingerprint(b"ab", b"c") != roots_fingerprint(b"a", b"bc")


def test_secret_is_kept_as_its_sha256() -> None:
    assert secret_hash(SECRET) == hashlib.sha256(SECRET.encode()).hexdigest()
