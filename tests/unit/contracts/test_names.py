import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.names import (
    BundleRef,
    Name,
    Sha256,
    Version,
    file_target,
    manifest_target,
    require_name,
    version_key,
)

BAD_NAMES = ["", "-a", "a-", "A", "ä", "a b", "a/b", "..", "a\n", "\na", "a" * 64, "a\0"]
BAD_VERSIONS = [
    "",
    "1",
    "1.0",
    "1.0.0.0",
    "01.0.0",
    "1.0.0-rc1",
    "1.0.x",
    "-1.0.0",
    "1.0.0\n",
    "1.0.1234567890",
    "1.0.٣",
]

versions = st.tuples(*[st.integers(0, 999_999_999)] * 3)


@pytest.mark.parametrize("text", ["a", "0", "a-b", "digits-2", "a" * 63])
def test_name_is_taken(text: str) -> None:
    assert require_name(text, what="device") == text


@pytest.mark.parametrize("text", BAD_NAMES)
def test_text_that_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="device"):
        require_name(text, what="device")


@pytest.mark.parametrize("text", BAD_NAMES)
def test_text_that_is_no_name_is_refused_on_the_wire(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, Name)


@pytest.mark.parametrize("text", BAD_VERSIONS)
def test_text_that_is_no_version_is_refused_on_the_wire(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, Version)


@pytest.mark.parametrize("text", BAD_VERSIONS)
def test_text_that_is_no_version_has_no_sort_key(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"MAJOR\.MINOR\.PATCH"):
        version_key(text)


@pytest.mark.parametrize("text", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n"])
def test_text_that_is_no_digest_is_refused_on_the_wire(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(text, Sha256)


@given(versions, versions)
def test_versions_order_as_their_numbers_do(one: tuple[int, int, int], two: tuple[int, int, int]) -> None:
    first, second = version_key(".".join(map(str, one))), version_key(".".join(map(str, two)))
    assert (first < second) == (one < two)


def test_ref_gives_back_what_it_was_parsed_from() -> None:
    assert str(BundleRef.parse("digits-2@1.10.0")) == "digits-2@1.10.0"


@pytest.mark.parametrize(
    "text", ["", "digits", "digits@1", "@1.0.0", "a@b@1.0.0", "Digits@1.0.0", "digits@1.0.0\n", "../a@1.0.0"]
)
def test_text_that_names_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"NAME@MAJOR\.MINOR\.PATCH"):
        BundleRef.parse(text)


def test_targets_are_told_apart_by_name_and_version() -> None:
    assert manifest_target(BundleRef.parse("a@1.2.3")) == "bundles/a/1.2.3/manifest.json"


def test_file_target_is_the_content_hash() -> None:
    assert file_target("ab" * 32) == "files/" + "ab" * 32
