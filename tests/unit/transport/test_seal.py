import base64
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.contracts.errors import Corrupt, InvalidInput, NotFound, Unavailable
from edgeloop.transport.seal import Keyring, is_sealed, make_keys, open_keyring, rotate_keys

OLD, NEW = b"o" * 32, b"n" * 32


@given(st.binary(max_size=2000), st.binary(max_size=50))
def test_what_was_sealed_opens(data: bytes, context: bytes) -> None:
    ring = Keyring((NEW,))
    sealed = ring.seal(data, context=context)
    assert ring.open(sealed, context=context) == data
    assert (is_sealed(sealed), len(sealed) - len(data)) == (True, 37)


def test_two_sealings_of_the_same_differ() -> None:
    ring = Keyring((NEW,))
    assert ring.seal(b"same", context=b"") != ring.seal(b"same", context=b"")


@given(st.data())
def test_any_changed_bit_is_noticed(data: st.DataObject) -> None:
    ring = Keyring((NEW,))
    sealed = bytearray(ring.seal(b"some pixels", context=b"c"))
    place = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[place // 8] ^= 1 << place % 8
    with pytest.raises((Corrupt, Unavailable)):
        ring.open(bytes(sealed), context=b"c")


@pytest.mark.parametrize("length", [0, 4, 9, 20, 21, 36])
def test_what_was_cut_is_noticed(length: int) -> None:
    ring = Keyring((NEW,))
    with pytest.raises((Corrupt, Unavailable)):
        ring.open(ring.seal(b"some pixels", context=b"")[:length], context=b"")


def test_value_that_was_moved_elsewhere_is_noticed() -> None:
    ring = Keyring((NEW,))
    with pytest.raises(Corrupt, match="changed"):
        ring.open(ring.seal(b"x", context=b"here"), context=b"there")


def test_after_a_rotation_old_values_open_and_new_ones_need_the_new_key() -> None:
    old, both = Keyring((OLD,)), Keyring((NEW, OLD))
    assert both.open(old.seal(b"x", context=b""), context=b"") == b"x"
    with pytest.raises(Unavailable, match=both.ids[0]):
        old.open(both.seal(b"x", context=b""), context=b"")


def test_file_is_made_for_its_owner_alone_and_rotates(tmp_path: Path) -> None:
    path = tmp_path / "sample.key"
    first = make_keys(path)
    sealed = first.seal(b"x", context=b"")
    second = rotate_keys(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert second.ids[1:] == first.ids
    assert open_keyring(str(path), {}).open(sealed, context=b"") == b"x"
    assert len(rotate_keys(path, keep=0).ids) == 1
    with pytest.raises(InvalidInput, match="rotate"):
        make_keys(path)


def test_file_that_others_may_read_is_turned_down(tmp_path: Path) -> None:
    path = tmp_path / "sample.key"
    make_keys(path)
    path.chmod(0o640)
    with pytest.raises(InvalidInput, match="chmod 600"):
        open_keyring(str(path), {})


def test_keys_come_from_the_environment_or_a_command() -> None:
    text = base64.b64encode(NEW).decode()
    ids = Keyring((NEW,)).ids
    assert open_keyring("env:SAMPLE_KEY", {"SAMPLE_KEY": text}).ids == ids
    assert open_keyring(f"command:{sys.executable} -c 'print(\"{text}\")'", {}).ids == ids


def test_command_meets_no_shell(tmp_path: Path) -> None:
    with pytest.raises((InvalidInput, Unavailable)):
        open_keyring(f"command:true; touch {tmp_path}/made", {})
    with pytest.raises((InvalidInput, Unavailable)):
        open_keyring(f"command:echo $(touch {tmp_path}/made)", {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["env:NOT_SET", "/nowhere/at/all"])
def test_source_that_is_not_there_is_not_found(source: str) -> None:
    with pytest.raises(NotFound):
        open_keyring(source, {})


@pytest.mark.parametrize("source", ["command:", "command:'", "env:BAD", "env:SHORT", "env:EMPTY"])
def test_source_that_holds_no_key_is_turned_down(source: str) -> None:
    with pytest.raises(InvalidInput):
        open_keyring(source, {"BAD": "not base64!", "SHORT": base64.b64encode(b"x").decode(), "EMPTY": "\n"})


@pytest.mark.parametrize("command", ["/nowhere/at/all", "false"])
def test_command_that_fails_is_told(command: str) -> None:
    with pytest.raises(Unavailable, match="command"):
        open_keyring(f"command:{command}", {})
