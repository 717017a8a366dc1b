import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from builders import Damage, Parts, make_parts, onnx_model, pack, quadrant_images, quadrant_weights
from edgeloop.bundle.archive import Bundle, digest, entries, open_bundle
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Corrupt, Refused, Unavailable
from edgeloop.contracts.manifest import Budget, EngineName
from edgeloop.contracts.messages import Assignment, WatchBounds
from edgeloop.contracts.names import file_target, manifest_target
from edgeloop.contracts.states import UpdateState
from edgeloop.device.config import Pace
from edgeloop.device.slots import Slots
from edgeloop.device.state import Versions
from edgeloop.device.update import Supply, Updater
from edgeloop.transport.keep import Keep

AT_ONCE = WatchBounds(min_readings=0)
ON_WATCH = WatchBounds(min_readings=20, max_disagreement=0.1)
UNFINISHED = (UpdateState.DOWNLOADING, UpdateState.VERIFYING, UpdateState.ACCEPTING, UpdateState.ACTIVE)
SURER = quadrant_weights(sharpness=21.0)
"""The same answers from other weights, so that two versions share no model file."""


class Killed(BaseException):
    """The process ends here: nothing of ours may catch it."""


class ArchiveSupply:
    """Implements update.Supply over archives: signs whatever they hold."""

    def __init__(self, *archives: Path) -> None:
        self.fetched: list[str] = []
        self.damage_next = ""
        self.wanted: Assignment | None = None
        self._targets: dict[str, bytes] = {}
        for archive in archives:
            bundle = open_bundle(archive)
            self._targets[manifest_target(bundle.manifest.ref)] = bundle.manifest_bytes
            for entry in bundle.manifest.files:
                self._targets[file_target(entry.sha256)] = bundle.read(entry.sha256)

    async def assignment(self) -> Assignment | None:
        """See Supply.assignment."""
        return self.wanted

    async def check(self, target: str, sha256: str) -> int:
        """See Supply.check."""
        data = self._targets.get(target)
        if data is None or digest(data) != sha256:
            raise Refused(f"the targets key never signed {target}")
        return len(data)

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch."""
        self.fetched.append(target)
        data = self._targets[target]
        assert len(data) == size_bytes
        if target == self.damage_next:
            self.damage_next = ""
            data = bytes(len(data))
        shelf.append_part(sha256, data)
        shelf.finish_part(sha256)


class Away:
    """Implements update.Supply without a network."""

    async def assignment(self) -> Assignment | None:
        """See Supply.assignment."""
        raise Unavailable("the hub is away")

    async def check(self, target: str, sha256: str) -> int:
        """See Supply.check."""
        raise Unavailable("the hub is away")

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch."""
        raise Unavailable("the hub is away")


class Device:
    """A device's state folder, and the updater of one process that works on it."""

    def __init__(
        self, folder: Path, supply: Supply, *, engines: Iterable[EngineName] = (EngineName.ONNXRUNTIME,)
    ) -> None:
        self.shelf = Shelf(folder / "bundles")
        self.slots = Slots()
        self.states: list[UpdateState] = []
        self.at_state: Callable[[UpdateState], None] = lambda state: None
        self._keep = Keep(folder / "device.db")
        self.versions = Versions(self._keep)
        self.updater = Updater(
            versions=self.versions,
            shelf=self.shelf,
            slots=self.slots,
            supply=supply,
            engines=engines,
            pace=Pace(folder / "races"),
            on_change=self._on_change,
        )

    def take(self, assignment: Assignment | None, *, generation: int = 1) -> None:
        """Bring the device to what is assigned."""
        asyncio.run(asyncio.wait_for(self.updater.take(assignment, generation=generation), 60))

    def resume(self) -> None:
        """Take up what was broken off."""
        asyncio.run(asyncio.wait_for(self.updater.resume(), 60))

    def close(self) -> None:
        """The process ends."""
        self._keep.close()

    @property
    def runs(self) -> str | None:
        """The bundle that answers readings now."""
        slot = self.slots.current
        return str(slot.predictor.manifest.ref) if slot else None

    @property
    def active(self) -> str | None:
        """The bundle that the disk says is active."""
        return self.versions.active.bundle if self.versions.active else None

    @property
    def state(self) -> UpdateState | None:
        """Where the newest update is."""
        return self.versions.update.state if self.versions.update else None

    @property
    def reason(self) -> str:
        """Why it is there."""
        return self.versions.update.reason if self.versions.update else ""

    def kill_at(self, state: UpdateState) -> None:
        """End the process as soon as this state is on the disk."""

        def kill(reached: UpdateState) -> None:
            if reached is state:
                raise Killed

        self.at_state = kill

    def see(self, *, disagreements: int, of: int = 20, errors: int = 0) -> None:
        """Readings on watch."""
        slot = self.slots.current
        assert slot is not None
        assert slot.watch is not None
        for index in range(of):
            slot.watch.saw(latency_ms=1.0, shadow_latency_ms=1.0, disagrees=index < disagreements)
        for _ in range(errors):
            slot.watch.failed()

    def see_when_active(self, *, disagreements: int, errors: int = 0) -> None:
        """The same as soon as a version is active."""

        def see(reached: UpdateState) -> None:
            if reached is UpdateState.ACTIVE:
                self.see(disagreements=disagreements, errors=errors)

        self.at_state = see

    def _on_change(self) -> None:
        state = self.state
        if state is not None:
            self.states.append(state)
            self.at_state(state)


class Folder:
    """Makes bundles, and devices over one state folder: each new one is a fresh process after a kill."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._devices: list[Device] = []

    def write(self, parts: Parts) -> Path:
        """The parts as an archive."""
        return pack(parts, self._path)

    def device(self, supply: Supply, **options: Iterable[EngineName]) -> Device:
        """A fresh process on the folder."""
        self.close()
        device = Device(self._path / "device", supply, **options)
        self._devices.append(device)
        return device

    def damage(self, sha256: str) -> None:
        """Overwrite a file on the device's shelf with as many zeros."""
        path = self._path / "device" / "bundles" / "files" / sha256
        path.write_bytes(bytes(path.stat().st_size))

    def close(self) -> None:
        """End the process that is there."""
        while self._devices:
            self._devices.pop().close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    made.close()


def _assigned(archive: Path, *, generation: int = 1, watch: WatchBounds = AT_ONCE) -> Assignment:
    bundle = open_bundle(archive)
    return Assignment(
        generation=generation,
        rollout_id=f"r{generation}",
        bundle=str(bundle.manifest.ref),
        manifest_sha256=digest(bundle.manifest_bytes),
        watch=watch,
    )


def _first(folder: Folder) -> Path:
    return folder.write(make_parts())


def _second(folder: Folder) -> Path:
    return folder.write(make_parts(version="1.1.0", weights=SURER))


def _with_first(folder: Folder, *others: Path) -> Device:
    """A device on which 1.0.0 is confirmed; its supply has the others too."""
    first = _first(folder)
    device = folder.device(ArchiveSupply(first, *others))
    device.take(_assigned(first))
    assert device.state is UpdateState.CONFIRMED
    device.states.clear()
    return device


def _supply_of(folder: Folder, *archives: Path) -> ArchiveSupply:
    return ArchiveSupply(_first(folder), *archives)


def _two_variants(version: str) -> tuple[Parts, str, str]:
    """A bundle whose first variant has damaged weights; with the hashes of the bad and the good one."""
    good = make_parts(version=version)
    bad = onnx_model(replace(quadrant_weights(), to_logits=np.roll(quadrant_weights().to_logits, 1, axis=1)))
    variant = good.manifest.variants[0]
    files = good.files | {digest(bad): bad}
    broken = msgspec.structs.replace(variant, file=digest(bad), size_bytes=len(bad))
    manifest = msgspec.structs.replace(good.manifest, variants=(broken, variant), files=entries(files.values()))
    return Parts(manifest, files), digest(bad), variant.file


# ---- the way that it should go


def test_update_passes_through_every_state(folder: Folder) -> None:
    archive = _first(folder)
    device = folder.device(ArchiveSupply(archive))
    device.take(_assigned(archive))
    assert device.states == [*UNFINISHED, UpdateState.CONFIRMED]


def test_confirmed_version_runs(folder: Folder) -> None:
    device = _with_first(folder)
    slot = device.slots.current
    assert slot is not None
    assert slot.predictor.predict(quadrant_images(2)[1]).label == "top_right"


def test_confirmed_version_is_the_floor(folder: Folder) -> None:
    assert str(_with_first(folder).versions.floor) == "tiny@1.0.0"


def test_confirmed_version_has_no_shadow_any_more(folder: Folder) -> None:
    second = _second(folder)
    device = _with_first(folder, second)
    device.take(_assigned(second, generation=2))
    slot = device.slots.current
    assert slot is not None
    assert (slot.shadow, slot.watch) == (None, None)


def test_update_keeps_the_version_before(folder: Folder) -> None:
    second = _second(folder)
    device = _with_first(folder, second)
    device.take(_assigned(second, generation=2))
    assert (device.active, device.versions.previous.bundle if device.versions.previous else None) == (
        "tiny@1.1.0",
        "tiny@1.0.0",
    )


def test_old_version_shadows_the_new_one_on_watch(folder: Folder) -> None:
    second = _second(folder)
    device = _with_first(folder, second)
    device.kill_at(UpdateState.ACTIVE)
    with pytest.raises(Killed):
        device.take(_assigned(second, generation=2, watch=ON_WATCH))
    slot = device.slots.current
    assert slot is not None
    assert slot.shadow is not None
    assert str(slot.shadow.manifest.ref) == "tiny@1.0.0"


def test_agreeing_readings_confirm(folder: Folder) -> None:
    second = _second(folder)
    device = _with_first(folder, second)
    device.see_when_active(disagreements=2)
    device.take(_assigned(second, generation=2, watch=ON_WATCH))
    assert (device.state, device.reason) == (
        UpdateState.CONFIRMED,
        "20 readings on watch, 10% differ from the old version",
    )


def test_update_fetches_only_what_is_not_here(folder: Folder) -> None:
    second = _second(folder)
    supply = _supply_of(folder, second)
    device = folder.device(supply)
    device.take(_assigned(_first(folder)))
    supply.fetched.clear()
    device.take(_assigned(second, generation=2))
    inputs = file_target(open_bundle(second).manifest.golden.inputs)
    assert (inputs in supply.fetched, manifest_target(open_bundle(second).manifest.ref) in supply.fetched) == (
        False,
        True,
    )


def test_versions_before_the_previous_are_tidied_away(folder: Folder) -> None:
    second = _second(folder)
    third = folder.write(make_parts(version="1.2.0", weights=quadrant_weights(sharpness=22.0)))
    device = _with_first(folder, second, third)
    device.take(_assigned(second, generation=2))
    device.take(_assigned(third, generation=3))
    assert [str(ref) for ref in device.shelf.refs()] == ["tiny@1.1.0", "tiny@1.2.0"]


def test_what_runs_already_is_confirmed_without_a_download(folder: Folder) -> None:
    archive = _first(folder)
    supply = ArchiveSupply(archive)
    device = folder.device(supply)
    device.take(_assigned(archive))
    supply.fetched.clear()
    device.take(_assigned(archive, generation=2))
    assert (device.state, supply.fetched, device.versions.known_generation) == (UpdateState.CONFIRMED, [], 2)


def test_nothing_wanted_leaves_what_runs(folder: Folder) -> None:
    device = _with_first(folder)
    device.take(None, generation=5)
    assert (device.runs, device.versions.known_generation) == ("tiny@1.0.0", 5)


# ---- refused


def _refused(folder: Folder, parts: Parts) -> Device:
    archive = folder.write(parts)
    device = _with_first(folder, archive)
    device.take(_assigned(archive, generation=2))
    return device


@pytest.mark.parametrize("damage", list(Damage))
def test_version_that_fails_its_golden_samples_is_refused(folder: Folder, damage: Damage) -> None:
    device = _refused(folder, make_parts(version="1.1.0", damage=damage))
    assert device.states == [*UNFINISHED[:3], UpdateState.REFUSED]


def test_refused_version_leaves_the_old_one_running(folder: Folder) -> None:
    device = _refused(folder, make_parts(version="1.1.0", damage=Damage.WEIGHTS))
    assert (device.runs, device.active, device.versions.previous) == ("tiny@1.0.0", "tiny@1.0.0", None)


def test_refusal_says_what_the_golden_samples_showed(folder: Folder) -> None:
    device = _refused(folder, make_parts(version="1.1.0", damage=Damage.WEIGHTS))
    assert "onnxruntime float32: golden samples: 0% of labels agree" in device.reason


def test_refused_version_is_tidied_away(folder: Folder) -> None:
    parts = make_parts(version="1.1.0", damage=Damage.WEIGHTS)
    device = _refused(folder, parts)
    assert not device.shelf.has(parts.manifest.variants[0].file)


def test_version_that_is_too_slow_here_is_refused(folder: Folder) -> None:
    device = _refused(folder, make_parts(version="1.1.0").changed(budget=Budget(max_latency_p50_ms=1e-6)))
    assert (device.state, "too slow here" in device.reason) == (UpdateState.REFUSED, True)


def test_version_older_than_the_floor_is_refused(folder: Folder) -> None:
    device = _refused(folder, make_parts(version="0.9.0", weights=SURER))
    assert (device.state, device.runs) == (UpdateState.REFUSED, "tiny@1.0.0")
    assert "tiny@0.9.0 is older than tiny@1.0.0" in device.reason


def test_version_older_than_the_floor_is_not_downloaded(folder: Folder) -> None:
    old = folder.write(make_parts(version="0.9.0", weights=SURER))
    supply = _supply_of(folder, old)
    device = folder.device(supply)
    device.take(_assigned(_first(folder)))
    supply.fetched.clear()
    device.take(_assigned(old, generation=2))
    assert supply.fetched == []


def test_version_turned_down_before_is_refused_without_a_download(folder: Folder) -> None:
    bad = folder.write(make_parts(version="1.1.0", damage=Damage.WEIGHTS))
    supply = ArchiveSupply(bad)
    device = folder.device(supply)
    device.take(_assigned(bad))
    supply.fetched.clear()
    device.take(_assigned(bad, generation=2))
    assert (device.state, supply.fetched) == (UpdateState.REFUSED, [])
    assert "turned down here before" in device.reason


def test_what_was_turned_down_stays_so_after_a_restart(folder: Folder) -> None:
    bad = folder.write(make_parts(version="1.1.0", damage=Damage.WEIGHTS))
    folder.device(ArchiveSupply(bad)).take(_assigned(bad))
    device = folder.device(Away())
    device.take(_assigned(bad, generation=2))
    assert device.state is UpdateState.REFUSED


def test_version_without_a_variant_for_this_device_is_refused(folder: Folder) -> None:
    archive = _first(folder)
    device = folder.device(ArchiveSupply(archive), engines=())
    device.take(_assigned(archive))
    assert device.state is UpdateState.REFUSED
    assert "it offers onnxruntime float32; here there is no engine" in device.reason


def test_manifest_of_another_version_than_assigned_is_refused(folder: Folder) -> None:
    archive = _second(folder)
    data = open_bundle(archive).manifest_bytes
    supply = ArchiveSupply(archive)
    supply._targets["bundles/tiny/1.2.0/manifest.json"] = data
    device = folder.device(supply)
    device.take(msgspec.structs.replace(_assigned(archive), bundle="tiny@1.2.0"))
    assert (device.state, device.reason) == (
        UpdateState.REFUSED,
        "the manifest is of tiny@1.1.0, assigned is tiny@1.2.0",
    )


def test_file_that_was_never_signed_is_refused(folder: Folder) -> None:
    archive = _first(folder)
    supply = ArchiveSupply(archive)
    del supply._targets[file_target(open_bundle(archive).manifest.variants[0].file)]
    device = folder.device(supply)
    device.take(_assigned(archive))
    assert (device.state, device.runs) == (UpdateState.REFUSED, None)


def test_second_candidate_is_taken_when_the_first_fails(folder: Folder) -> None:
    parts, _, good = _two_variants("1.0.0")
    archive = folder.write(parts)
    device = folder.device(ArchiveSupply(archive))
    device.take(_assigned(archive))
    assert device.versions.active is not None
    assert (device.state, device.versions.active.variant) == (UpdateState.CONFIRMED, good)


def test_second_candidate_is_fetched_only_after_the_first_failed(folder: Folder) -> None:
    parts, bad, good = _two_variants("1.0.0")
    archive = folder.write(parts)
    supply = ArchiveSupply(archive)
    device = folder.device(supply)
    at_accepting: list[str] = []
    device.at_state = lambda state: at_accepting.extend(supply.fetched) if state is UpdateState.ACCEPTING else None
    device.take(_assigned(archive))
    assert (file_target(bad) in at_accepting, file_target(good) in at_accepting) == (True, False)


def test_hub_that_is_away_is_not_a_refusal(folder: Folder) -> None:
    archive = _first(folder)
    device = folder.device(Away())
    with pytest.raises(Unavailable):
        device.take(_assigned(archive))
    assert device.state is UpdateState.DOWNLOADING


def test_download_damaged_on_its_way_does_not_turn_good_content_down_for_good(folder: Folder) -> None:
    archive = _first(folder)
    supply = ArchiveSupply(archive)
    supply.damage_next = file_target(open_bundle(archive).manifest.variants[0].file)
    device = folder.device(supply)
    with suppress(Corrupt):  # the agent waits and tries again
        device.take(_assigned(archive))
    device.take(_assigned(archive))
    assert (device.state, device.runs) == (UpdateState.CONFIRMED, "tiny@1.0.0")


# ---- killed at any instant


@pytest.mark.parametrize("state", UNFINISHED)
def test_update_killed_at_a_state_ends_confirmed(folder: Folder, state: UpdateState) -> None:
    second = _second(folder)
    device = _with_first(folder, second)
    device.kill_at(state)
    with pytest.raises(Killed):
        device.take(_assigned(second, generation=2))
    again = folder.device(_supply_of(folder, second))
    again.updater.start()
    again.resume()
    assert (again.state, again.runs, again.active) == (UpdateState.CONFIRMED, "tiny@1.1.0", "tiny@1.1.0")


def test_version_that_takes_the_agent_down_each_time_is_refused_for_good(folder: Folder) -> None:
    second = _second(folder)
    device = _with_first(folder, second)
    device.kill_at(UpdateState.ACCEPTING)
    with pytest.raises(Killed):
        device.take(_assigned(second, generation=2))
    again = folder.device(_supply_of(folder, second))
    again.kill_at(UpdateState.ACCEPTING)
    with pytest.raises(Killed):
        again.resume()
    last = folder.device(_supply_of(folder, second))
    last.kill_at(UpdateState.ACCEPTING)
    with pytest.raises(Killed):
        last.resume()
    final = folder.device(_supply_of(folder, second))
    final.updater.start()
    final.resume()
    assert (final.state, final.runs) == (UpdateState.REFUSED, "tiny@1.0.0")
    assert "did not survive" in final.reason


@pytest.mark.parametrize("state", UNFINISHED)
def test_device_answers_right_after_a_kill(folder: Folder, state: UpdateState) -> None:
    second = _second(folder)
    device = _with_first(folder, second)
    device.kill_at(state)
    with pytest.raises(Killed):
        device.take(_assigned(second, generation=2))
    again = folder.device(Away())
    again.updater.start()
    assert again.runs == ("tiny@1.1.0" if state is UpdateState.ACTIVE else "tiny@1.0.0")


@pytest.mark.parametrize("state", UNFINISHED)
def test_bad_update_killed_at_a_state_never_runs(folder: Folder, state: UpdateState) -> None:
    bad = folder.write(make_parts(version="1.1.0", damage=Damage.WEIGHTS))
    device = _with_first(folder, bad)
    device.kill_at(state)
    with suppress(Killed):  # it never becomes active, so there is nothing to be killed at then
        device.take(_assigned(bad, generation=2))
    again = folder.device(_supply_of(folder, bad))
    again.updater.start()
    again.resume()
    assert (again.state, again.runs) == (UpdateState.REFUSED, "tiny@1.0.0")


def test_kills_at_every_state_in_turn_end_confirmed(folder: Folder) -> None:
    second = _second(folder)
    device = _with_first(folder, second)
    device.kill_at(UpdateState.DOWNLOADING)
    with pytest.raises(Killed):
        device.take(_assigned(second, generation=2))
    for state in UNFINISHED[1:]:
        device = folder.device(_supply_of(folder, second))
        device.updater.start()
        device.kill_at(state)
        with pytest.raises(Killed):
            device.resume()
    last = folder.device(Away())
    last.updater.start()
    last.resume()
    assert (last.state, last.runs) == (UpdateState.CONFIRMED, "tiny@1.1.0")


def test_files_fetched_before_a_kill_are_not_fetched_again(folder: Folder) -> None:
    archive = _first(folder)
    device = folder.device(ArchiveSupply(archive))
    device.kill_at(UpdateState.VERIFYING)
    with pytest.raises(Killed):
        device.take(_assigned(archive))
    supply = ArchiveSupply(archive)
    folder.device(supply).resume()
    assert supply.fetched == []


@pytest.mark.parametrize("state", [UpdateState.CONFIRMED, UpdateState.REFUSED])
def test_finished_update_is_not_taken_up_again(folder: Folder, state: UpdateState) -> None:
    bad = folder.write(make_parts(version="1.1.0", damage=Damage.WEIGHTS))
    device = _with_first(folder, bad)
    if state is UpdateState.REFUSED:
        device.take(_assigned(bad, generation=2))
    again = folder.device(Away())
    again.updater.start()
    again.resume()
    assert (again.states, again.state) == ([], state)


# ---- on watch


def _on_watch(folder: Folder) -> tuple[Device, Assignment]:
    """A device with 1.1.0 active over 1.0.0, and nothing seen yet; its process was killed, and it has no network."""
    second = _second(folder)
    device = _with_first(folder, second)
    assignment = _assigned(second, generation=2, watch=ON_WATCH)
    device.kill_at(UpdateState.ACTIVE)
    with pytest.raises(Killed):
        device.take(assignment)
    again = folder.device(Away())
    again.updater.start()
    return again, assignment


def test_disagreement_on_watch_goes_back_without_a_network(folder: Folder) -> None:
    device, _ = _on_watch(folder)
    device.see(disagreements=20)
    device.resume()
    assert (device.state, device.runs, device.active) == (UpdateState.ROLLED_BACK, "tiny@1.0.0", "tiny@1.0.0")


def test_roll_back_says_why(folder: Folder) -> None:
    device, _ = _on_watch(folder)
    device.see(disagreements=20)
    device.resume()
    assert device.reason == "on watch over 20 readings: 100% differ from the old version, allowed 10%"


def test_failures_on_watch_go_back(folder: Folder) -> None:
    device, _ = _on_watch(folder)
    device.see(disagreements=0, errors=5)
    device.resume()
    assert (device.state, device.runs) == (UpdateState.ROLLED_BACK, "tiny@1.0.0")


def test_rolled_back_version_is_not_tried_again(folder: Folder) -> None:
    device, assignment = _on_watch(folder)
    device.see(disagreements=20)
    device.resume()
    device.take(msgspec.structs.replace(assignment, generation=3))
    assert (device.state, device.runs) == (UpdateState.REFUSED, "tiny@1.0.0")


def test_first_version_that_goes_back_leaves_nothing_running(folder: Folder) -> None:
    archive = _first(folder)
    device = folder.device(ArchiveSupply(archive))
    device.see_when_active(disagreements=0, errors=10)
    device.take(_assigned(archive, watch=ON_WATCH))
    assert (device.state, device.runs, device.active) == (UpdateState.ROLLED_BACK, None, None)


def test_withdrawn_version_on_watch_goes_back(folder: Folder) -> None:
    device, _ = _on_watch(folder)
    device.updater.withdraw("something else is wanted")
    assert (device.state, device.reason, device.runs) == (
        UpdateState.ROLLED_BACK,
        "something else is wanted",
        "tiny@1.0.0",
    )


def test_withdrawn_version_may_come_again(folder: Folder) -> None:
    device, assignment = _on_watch(folder)
    device.updater.withdraw("something else is wanted")
    assert device.versions.turned_down(assignment.manifest_sha256) is None


def test_confirmed_version_cannot_be_withdrawn(folder: Folder) -> None:
    device = _with_first(folder)
    device.updater.withdraw("something else is wanted")
    assert (device.state, device.runs) == (UpdateState.CONFIRMED, "tiny@1.0.0")


def test_version_on_watch_that_is_assigned_again_still_needs_its_verdict(folder: Folder) -> None:
    device, assignment = _on_watch(folder)
    device.see(disagreements=20)
    device.take(msgspec.structs.replace(assignment, generation=3))
    assert (device.state, device.runs) == (UpdateState.ROLLED_BACK, "tiny@1.0.0")


# ---- damaged at start


def _with_second(folder: Folder) -> Device:
    """A device on which 1.1.0 is confirmed over 1.0.0."""
    second = _second(folder)
    device = _with_first(folder, second)
    device.take(_assigned(second, generation=2))
    return device


def _model(archive_parts: Parts) -> str:
    return archive_parts.manifest.variants[0].file


def test_damaged_active_version_goes_back_at_start(folder: Folder) -> None:
    _with_second(folder)
    folder.damage(_model(make_parts(weights=SURER)))
    device = folder.device(Away())
    device.updater.start()
    assert (device.runs, device.active, device.state) == ("tiny@1.0.0", "tiny@1.0.0", UpdateState.ROLLED_BACK)


def test_damaged_active_version_is_told_of(folder: Folder) -> None:
    _with_second(folder)
    folder.damage(_model(make_parts(weights=SURER)))
    device = folder.device(Away())
    device.updater.start()
    assert device.states == [UpdateState.ROLLED_BACK]


def test_damaged_previous_version_does_not_keep_a_new_one_from_running(folder: Folder) -> None:
    _on_watch(folder)
    folder.damage(_model(make_parts()))
    device = folder.device(Away())
    device.updater.start()
    assert device.runs == "tiny@1.1.0"


def test_device_starts_when_both_its_versions_are_damaged(folder: Folder) -> None:
    _with_second(folder)
    for parts in (make_parts(weights=SURER), make_parts()):
        folder.damage(_model(parts))
    device = folder.device(Away())
    device.updater.start()
    assert device.runs is None


def test_damage_is_not_blamed_on_another_version(folder: Folder) -> None:
    bad = folder.write(make_parts(version="1.2.0", damage=Damage.WEIGHTS))
    second = _second(folder)
    device = _with_first(folder, second, bad)
    device.take(_assigned(second, generation=2))
    device.take(_assigned(bad, generation=3))
    refused = device.reason
    folder.damage(_model(make_parts(weights=SURER)))
    again = folder.device(Away())
    again.updater.start()
    assert (again.runs, again.versions.turned_down(_assigned(bad).manifest_sha256)) == ("tiny@1.0.0", refused)


def test_only_version_that_is_damaged_is_fetched_again_when_it_is_assigned(folder: Folder) -> None:
    archive = _first(folder)
    _with_first(folder)
    folder.damage(_model(make_parts()))
    device = folder.device(ArchiveSupply(archive))
    device.updater.start()
    device.take(_assigned(archive, generation=2))
    assert (device.state, device.runs) == (UpdateState.CONFIRMED, "tiny@1.0.0")


def test_fake_supply_serves_what_it_signs(folder: Folder) -> None:
    archive = _first(folder)
    bundle: Bundle = open_bundle(archive)
    size_bytes = asyncio.run(
        ArchiveSupply(archive).check(manifest_target(bundle.manifest.ref), digest(bundle.manifest_bytes))
    )
    assert size_bytes == len(bundle.manifest_bytes)
