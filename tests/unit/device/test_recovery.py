"""A damaged record of a device's versions is no device without a model."""

import asyncio
import os
from pathlib import Path

import pytest

from builders import Damage, make_parts, quadrant_weights
from edgeloop.bundle.archive import digest, open_bundle
from edgeloop.contracts.errors import Corrupt
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.messages import Alert
from edgeloop.contracts.states import Kind
from edgeloop.device.agent import Agent, open_outbox
from edgeloop.device.config import DeviceConfig
from edgeloop.device.recovery import open_or_begin_anew, whole_versions
from edgeloop.device.state import Versions
from edgeloop.runtime.profile import this_machine
from edgeloop.transport.identity import Identity, load_or_make_key
from edgeloop.transport.keep import Keep
from edgeloop.transport.membership import Membership, open_client
from edgeloop.transport.uplink import Uplink
from updating import (
    ON_WATCH,
    SURER,
    ArchiveSupply,
    Device,
    Folder,
    assigned,
    first_version,
    second_version,
    two_variants,
    with_first,
)

ENGINES = (EngineName.ONNXRUNTIME,)
_PAGE_BYTES = 4096


def _with_second(folder: Folder) -> Device:
    """1.1.0 is confirmed over 1.0.0, and its process has ended."""
    second = second_version(folder)
    device = with_first(folder, second)
    device.take(assigned(second, generation=2))
    folder.close()
    return device


def _damage(folder: Folder, *, at_bytes: int = 0) -> Path:
    """One bad block of the record; returns it."""
    path = folder.device_folder / "device.db"
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    data = bytearray(path.read_bytes())
    data[at_bytes : at_bytes + _PAGE_BYTES] = os.urandom(_PAGE_BYTES)
    path.write_bytes(data)
    return path


def _opened(folder: Folder, device: Device) -> tuple[str | None, list[str], str]:
    """What runs, what can be gone back to, and what is told."""
    keep, told = open_or_begin_anew(folder.device_folder / "device.db", device.shelf, ENGINES, kept=3)
    try:
        versions = Versions(keep)
        return versions.active and versions.active.bundle, [one.bundle for one in versions.older], told
    finally:
        keep.close()


@pytest.mark.parametrize("page", [0, 1, 2])
def test_device_begins_anew_from_the_newest_version_that_is_whole(folder: Folder, page: int) -> None:
    device = _with_second(folder)
    path = _damage(folder, at_bytes=page * _PAGE_BYTES)
    damaged = path.read_bytes()
    active, older, told = _opened(folder, device)
    assert (active, older) == ("tiny@1.1.0", ["tiny@1.0.0"])
    assert "tiny@1.1.0, the newest that is whole here, runs" in told
    assert path.with_name("device.db.damaged").read_bytes() == damaged
    assert _opened(folder, device)[2] == "", "it is sound now"


def test_sound_record_is_left_alone(folder: Folder) -> None:
    device = _with_second(folder)
    assert _opened(folder, device) == ("tiny@1.1.0", ["tiny@1.0.0"], "")
    assert not (folder.device_folder / "device.db.damaged").exists()


def test_version_with_a_damaged_file_is_passed_over(folder: Folder) -> None:
    device = _with_second(folder)
    _damage(folder)
    folder.damage(make_parts(weights=SURER).manifest.variants[0].file)
    assert _opened(folder, device)[:2] == ("tiny@1.0.0", [])


def test_device_without_a_whole_version_starts_without_one(folder: Folder) -> None:
    device = _with_second(folder)
    _damage(folder)
    for parts in (make_parts(weights=SURER), make_parts()):
        folder.damage(parts.manifest.variants[0].file)
    active, older, told = _opened(folder, device)
    assert (active, older, "no version is whole here" in told) == (None, [], True)


def test_version_that_was_rolled_back_does_not_run_again(folder: Folder) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.see_when_active(disagreements=20)
    device.take(assigned(second, generation=2, watch=ON_WATCH))
    folder.close()
    _damage(folder)
    assert _opened(folder, device)[:2] == ("tiny@1.0.0", [])


def test_version_that_was_refused_does_not_run(folder: Folder) -> None:
    bad = folder.write(make_parts(version="1.1.0", damage=Damage.WEIGHTS))
    device = with_first(folder, bad)
    device.take(assigned(bad, generation=2))
    folder.close()
    _damage(folder)
    assert _opened(folder, device)[:2] == ("tiny@1.0.0", [])


def test_variant_that_was_accepted_is_the_one_that_runs(folder: Folder) -> None:
    parts, bad, good = two_variants("1.0.0")
    archive = folder.write(parts)
    device = folder.device(ArchiveSupply(archive))
    device.take(assigned(archive))
    assert device.shelf.has(bad)
    (found,) = whole_versions(device.shelf, ENGINES)
    assert (found.variant, found.manifest_sha256) == (good, digest(open_bundle(archive).manifest_bytes))


def test_bundle_that_came_last_is_the_newest_whatever_its_name(folder: Folder) -> None:
    device = _with_second(folder)
    other = folder.write(make_parts(version="0.1.0", weights=quadrant_weights(sharpness=25.0)).changed(name="another"))
    again = folder.device(ArchiveSupply(other))
    again.updater.start()
    again.take(assigned(other, generation=3))
    assert [one.bundle for one in whole_versions(device.shelf, ENGINES)] == [
        "another@0.1.0",
        "tiny@1.1.0",
        "tiny@1.0.0",
    ]


def test_record_that_is_read_in_full_says_that_it_is_damaged(folder: Folder) -> None:
    _with_second(folder)
    keep = Keep(_damage(folder, at_bytes=2 * _PAGE_BYTES))
    with pytest.raises(Corrupt):
        keep.require_sound()
    keep.close()


def test_agent_with_a_damaged_record_answers_and_tells_of_it(folder: Folder) -> None:
    """The real thing, its hub away."""
    first_version(folder)
    _with_second(folder)
    _damage(folder)

    async def work() -> str | None:
        key = load_or_make_key(folder.device_folder / "device.pem")
        url = "http://127.0.0.1:9"
        member = Membership(device_id="cam", kind=Kind.DEVICE, hub_url=url, images_root=b"i", director_root=b"d")
        async with open_client(url) as client:
            config = DeviceConfig(folder=folder.device_folder, engines=ENGINES, race_s=0.0)
            agent = Agent(config, member, Uplink(client, Identity("cam", key)), profile=this_machine())
            running = asyncio.create_task(agent.run())
            while not running.done() and agent.report().engine is None:
                await asyncio.sleep(0.05)
            active = agent.report().active
            running.cancel()
            await asyncio.wait([running])
            return active

    assert asyncio.run(asyncio.wait_for(work(), 120)) == "tiny@1.1.0"
    outbox = open_outbox(folder.device_folder, "cam")
    alerts = [event.body for event in outbox.events() if isinstance(event.body, Alert)]
    outbox.close()
    assert [one.what for one in alerts] == ["storage"]
    assert "tiny@1.1.0, the newest that is whole here, runs" in alerts[0].detail
