from pathlib import Path

import pytest

from edgeloop.transport.outbox import Outbox
from edgeloop.transport.seal import Keyring
from small_cloud import reading, sample


def _sealed(folder: Path, *keys: bytes) -> Outbox:
    return Outbox(folder / "sealed.db", "camera-1", keyring=Keyring(keys) if keys else None)


def test_samples_lie_sealed_on_the_disk_and_readings_do_not(tmp_path: Path) -> None:
    outbox = _sealed(tmp_path, b"k" * 32)
    outbox.append([reading("top_left"), sample(b"some pixels")], at_ms=1)
    assert [one.event.body for one in outbox.pending(limit=9, max_bytes=10**6)][1] == sample(b"some pixels")
    outbox.close()
    files = b"".join(path.read_bytes() for path in tmp_path.glob("sealed.db*"))
    assert (b"some pixels" in files, b"top_left" in files) == (False, True)


def test_samples_open_after_the_key_was_rotated(tmp_path: Path) -> None:
    outbox = _sealed(tmp_path, b"k" * 32)
    outbox.append([sample(b"one")], at_ms=1)
    outbox.close()
    outbox = _sealed(tmp_path, b"n" * 32, b"k" * 32)
    outbox.append([sample(b"two")], at_ms=2)
    assert [one.event.body.data for one in outbox.pending(limit=9, max_bytes=10**6)] == [b"one", b"two"]
    outbox.close()


@pytest.mark.parametrize("keys", [(), (b"n" * 32,)], ids=["none", "another"])
def test_samples_whose_key_is_missing_wait_for_it_and_hold_nothing_else_up(
    tmp_path: Path, keys: tuple[bytes, ...]
) -> None:
    outbox = _sealed(tmp_path, b"k" * 32)
    outbox.append([sample(b"one"), reading("top_left")], at_ms=1)
    outbox.close()
    outbox = _sealed(tmp_path, *keys)
    assert [one.event.body for one in outbox.pending(limit=9, max_bytes=10**6)] == [reading("top_left")]
    outbox.close()
    outbox = _sealed(tmp_path, b"k" * 32)
    assert len(outbox.pending(limit=9, max_bytes=10**6)) == 2
    outbox.close()
