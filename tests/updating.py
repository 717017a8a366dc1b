"""Updates for tests: bundles that a supply signs, and devices over one state folder that are killed and start again."""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from torture.here import put_to_work_here

from answered import answer
from builders import LABELS, Parts, make_parts, onnx_model, pack, quadrant_weights
from edgeloop.bundle.archive import digest, entries, open_bundle
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.errors import Refused, Unavailable
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.messages import Assignment, WatchBounds
from edgeloop.contracts.names import file_target, manifest_target
from edgeloop.contracts.states import UpdateState
from edgeloop.device.accept import Acceptance, Ask, PutToWork
from edgeloop.device.config import Pace, Patience
from edgeloop.device.downloads import Supply
from edgeloop.device.examine import Findings, Question, examine
from edgeloop.device.slots import Slots
from edgeloop.device.state import Ended, Versions
from edgeloop.device.update import Updater
from edgeloop.transport.keep import Keep

AT_ONCE = WatchBounds(min_readings=0)
ON_WATCH = WatchBounds(min_readings=20, max_disagreement=0.1)
KILLED = Ended(is_clean=False)
"""What a start finds after a kill."""

CRASHED = Ended(is_clean=False, crash="Segmentation fault")
NOON_S = 1_800_014_400.0
"""2027-01-15 12:00 UTC."""

UNFINISHED = (UpdateState.DOWNLOADING, UpdateState.VERIFYING, UpdateState.ACCEPTING, UpdateState.ACTIVE)
SURER = quadrant_weights(sharpness=21.0)
"""The same answers from other weights, so that two versions share no model file."""


class Killed(BaseException):
    """The process ends here: nothing of ours may catch it."""


class ArchiveSupply:
    """Implements update.Supply over archives: signs whatever they hold."""

    waited_s = 0.0

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


class Hanging(ArchiveSupply):
    """A supply whose files never come to an end."""

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch."""
        await asyncio.Event().wait()


class Away:
    """Implements update.Supply without a network."""

    waited_s = 0.0

    async def assignment(self) -> Assignment | None:
        """See Supply.assignment."""
        raise Unavailable("the hub is away")

    async def check(self, target: str, sha256: str) -> int:
        """See Supply.check."""
        raise Unavailable("the hub is away")

    async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
        """See Supply.fetch."""
        raise Unavailable("the hub is away")


async def ask_here(question: Question, manifest: bytes) -> Findings:
    """Implements accept.Ask with the same trial in this process: what the process adds, test_accept looks at."""
    return await asyncio.to_thread(examine, question, manifest)


class Device:
    """A device's state folder, and the updater of one process that works on it."""

    def __init__(
        self,
        folder: Path,
        supply: Supply,
        *,
        engines: Iterable[EngineName] = (EngineName.ONNXRUNTIME,),
        race_s: float = 0.0,
        accept_s: float = 45.0,
        ask: Ask = ask_here,
        put_to_work: PutToWork = put_to_work_here,
        kept: int = 3,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.shelf = Shelf(folder / "bundles")
        self.slots = Slots()
        self.states: list[UpdateState] = []
        self.at_state: Callable[[UpdateState], None] = lambda state: None
        self._keep = Keep(folder / "device.db")
        self.versions = Versions(self._keep, kept=kept)
        self.updater = Updater(
            versions=self.versions,
            shelf=self.shelf,
            slots=self.slots,
            supply=supply,
            engines=engines,
            acceptance=Acceptance(
                Pace(folder / "races", race_s=race_s, accept_s=accept_s), ask=ask, put_to_work=put_to_work
            ),
            on_change=self._on_change,
            patience=patience,
            clock=clock,
        )

    def take(self, assignment: Assignment | None, *, generation: int = 1) -> None:
        """Bring the device to what is assigned."""
        asyncio.run(asyncio.wait_for(self.updater.take(assignment, generation=generation), 60))

    def resume(self) -> None:
        """Take up what was broken off."""
        asyncio.run(asyncio.wait_for(self.updater.resume(), 60))

    def close(self) -> None:
        """The process ends."""
        self.slots.put(None)
        self._keep.close()

    @property
    def runs(self) -> str | None:
        """The bundle that answers readings now."""
        slot = self.slots.current
        return str(slot.active.manifest.ref) if slot else None

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

    def take_until(self, state: UpdateState, assignment: Assignment, *, generation: int = 1) -> None:
        """Begin to take it; the process ends as soon as this state is on the disk."""
        self.kill_at(state)
        with pytest.raises(Killed):
            self.take(assignment, generation=generation)

    def resume_until(self, state: UpdateState) -> None:
        """The same of what was broken off."""
        self.kill_at(state)
        with pytest.raises(Killed):
            self.resume()

    def see(self, *, disagreements: int, of: int = 20, errors: int = 0) -> None:
        """Readings on watch."""
        slot = self.slots.current
        assert slot is not None
        assert slot.watch is not None
        for index in range(of):
            slot.watch.saw(answer(LABELS[0]), answer(LABELS[index < disagreements]))
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

    @property
    def device_folder(self) -> Path:
        """The state folder."""
        return self._path / "device"

    def write(self, parts: Parts) -> Path:
        """The parts as an archive."""
        return pack(parts, self._path)

    def device(self, supply: Supply, **options: Any) -> Device:
        """A fresh process on the folder."""
        self.close()
        device = Device(self.device_folder, supply, **options)
        self._devices.append(device)
        return device

    def forget_races(self) -> None:
        """As after a change of machine or libraries: what was raced counts no more."""
        shutil.rmtree(self.device_folder / "races")

    def damage(self, sha256: str) -> None:
        """Overwrite a file on the device's shelf with as many zeros."""
        path = self.device_folder / "bundles" / "files" / sha256
        path.write_bytes(bytes(path.stat().st_size))

    def close(self) -> None:
        """End the process that is there."""
        while self._devices:
            self._devices.pop().close()


def assigned(archive: Path, *, generation: int = 1, watch: WatchBounds = AT_ONCE) -> Assignment:
    bundle = open_bundle(archive)
    return Assignment(
        generation=generation,
        rollout_id=f"r{generation}",
        bundle=str(bundle.manifest.ref),
        manifest_sha256=digest(bundle.manifest_bytes),
        watch=watch,
    )


def first_version(folder: Folder) -> Path:
    return folder.write(make_parts())


def second_version(folder: Folder) -> Path:
    return folder.write(make_parts(version="1.1.0", weights=SURER))


def with_first(folder: Folder, *others: Path) -> Device:
    """A device on which 1.0.0 is confirmed; its supply has the others too."""
    first = first_version(folder)
    device = folder.device(ArchiveSupply(first, *others))
    device.take(assigned(first))
    assert device.state is UpdateState.CONFIRMED
    device.states.clear()
    return device


def left_on_watch(folder: Folder) -> Device:
    """1.1.0 is active over 1.0.0, and its process was killed."""
    second = second_version(folder)
    device = with_first(folder, second)
    device.take_until(UpdateState.ACTIVE, assigned(second, generation=2, watch=ON_WATCH))
    return device


def supply_of(folder: Folder, *archives: Path) -> ArchiveSupply:
    return ArchiveSupply(first_version(folder), *archives)


def two_variants(version: str) -> tuple[Parts, str, str]:
    """A bundle whose first variant has damaged weights; with the hashes of the bad and the good one."""
    good = make_parts(version=version)
    bad = onnx_model(replace(quadrant_weights(), to_logits=np.roll(quadrant_weights().to_logits, 1, axis=1)))
    variant = good.manifest.variants[0]
    files = good.files | {digest(bad): bad}
    broken = msgspec.structs.replace(variant, file=digest(bad), size_bytes=len(bad))
    manifest = msgspec.structs.replace(good.manifest, variants=(broken, variant), files=entries(files.values()))
    return Parts(manifest, files), digest(bad), variant.file
