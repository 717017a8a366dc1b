import asyncio
from pathlib import Path

import pytest

from edgeloop.contracts.messages import Event, SendReply, SendRequest
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.seal import Keyring
from edgeloop.transport.sender import Sender
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


class Taking:
    """A hub's `send` that takes everything."""

    def __init__(self) -> None:
        self.taken: list[Event] = []

    async def send(self, request: SendRequest) -> SendReply:
        """Take a batch."""
        self.taken += request.events
        return SendReply(accepted=len(request.events), repeated=0)


def test_rows_whose_key_is_missing_are_looked_at_once(tmp_path: Path) -> None:
    """One batch looks at eight rows; there are twelve that are locked, on either side of what can go."""
    outbox = _sealed(tmp_path, b"k" * 32)
    outbox.append([sample() for _ in range(12)], at_ms=1)
    outbox.append([reading()], at_ms=1)
    outbox.append([sample() for _ in range(12)], at_ms=1)
    outbox.close()
    outbox = _sealed(tmp_path)
    found = [
        len(outbox.pending(limit=2, max_bytes=10**6, oldest_first=oldest)) for oldest in (True, True, False, False)
    ]
    outbox.close()
    assert found == [0, 1, 0, 1]


def test_backlog_without_its_key_takes_no_room_from_what_can_be_read(tmp_path: Path) -> None:
    """Together the samples are more than a batch holds."""
    samples = 12
    outbox = _sealed(tmp_path, b"k" * 32)
    outbox.append([reading("old")], at_ms=1)
    outbox.append([sample(bytes(100_000)) for _ in range(samples)], at_ms=1)
    outbox.close()
    outbox = _sealed(tmp_path)
    hub = Taking()
    sender = Sender(outbox, hub)  # type: ignore[arg-type]
    for at_ms in range(20):
        outbox.append([reading("new")], at_ms=at_ms)
        asyncio.run(sender.send_once())
    accounts = outbox.stats().accounts
    outbox.close()
    assert (len(hub.taken), accounts["reading"].pending.rows, accounts["sample"].pending.rows) == (21, 0, samples)
