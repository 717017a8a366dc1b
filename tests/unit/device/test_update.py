import asyncio
import json
from contextlib import suppress

import msgspec
import pytest

from bad_models import crashing
from builders import Damage, Parts, make_parts, quadrant_images, quadrant_weights
from edgeloop.bundle.archive import digest, entries, open_bundle
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, Unavailable
from edgeloop.contracts.manifest import Budget, EngineName
from edgeloop.contracts.names import file_target, manifest_target
from edgeloop.contracts.states import UpdateState
from edgeloop.device.accept import ask_process
from edgeloop.device.examine import Findings, Question
from edgeloop.runtime.load import load_fastest
from edgeloop.runtime.sources.port import Frame
from updating import (
    KILLED,
    ON_WATCH,
    SURER,
    UNFINISHED,
    ArchiveSupply,
    Away,
    Device,
    Folder,
    Killed,
    assigned,
    first_version,
    left_on_watch,
    second_version,
    supply_of,
    two_variants,
    with_first,
)

# ---- the way that it should go


def test_update_passes_through_every_state(folder: Folder) -> None:
    archive = first_version(folder)
    device = folder.device(ArchiveSupply(archive))
    device.take(assigned(archive))
    assert device.states == [*UNFINISHED, UpdateState.CONFIRMED]


def test_confirmed_version_runs(folder: Folder) -> None:
    device = with_first(folder)
    slot = device.slots.current
    assert slot is not None
    frame = Frame("1", quadrant_images(2)[1], 0.0, "image/raw")
    assert slot.active.answer(frame).label == "top_right"


def test_confirmed_version_is_the_floor(folder: Folder) -> None:
    assert str(with_first(folder).versions.floor) == "tiny@1.0.0"


def test_confirmed_version_has_no_shadow_any_more(folder: Folder) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.take(assigned(second, generation=2))
    slot = device.slots.current
    assert slot is not None
    assert (slot.shadow, slot.watch) == (None, None)


def test_update_keeps_the_version_before(folder: Folder) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.take(assigned(second, generation=2))
    assert (device.active, device.versions.previous.bundle if device.versions.previous else None) == (
        "tiny@1.1.0",
        "tiny@1.0.0",
    )


def test_old_version_shadows_the_new_one_on_watch(folder: Folder) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.take_until(UpdateState.ACTIVE, assigned(second, generation=2, watch=ON_WATCH))
    slot = device.slots.current
    assert slot is not None
    assert slot.shadow is not None
    assert str(slot.shadow.manifest.ref) == "tiny@1.0.0"


def test_agreeing_readings_confirm(folder: Folder) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.see_when_active(disagreements=2)
    device.take(assigned(second, generation=2, watch=ON_WATCH))
    assert (device.state, device.reason) == (
        UpdateState.CONFIRMED,
        "20 readings on watch, 10% differ from the old version",
    )


def test_update_fetches_only_what_is_not_here(folder: Folder) -> None:
    second = second_version(folder)
    supply = supply_of(folder, second)
    device = folder.device(supply)
    device.take(assigned(first_version(folder)))
    supply.fetched.clear()
    device.take(assigned(second, generation=2))
    inputs = file_target(open_bundle(second).manifest.golden.inputs)
    assert (inputs in supply.fetched, manifest_target(open_bundle(second).manifest.ref) in supply.fetched) == (
        False,
        True,
    )


def _with_four(folder: Folder, **options: object) -> Device:
    """A device on which 1.0.0 to 1.3.0 were confirmed one after another."""
    parts = [make_parts(version=f"1.{n}.0", weights=quadrant_weights(sharpness=20.0 + n)) for n in range(4)]
    archives = [folder.write(one) for one in parts]
    device = folder.device(ArchiveSupply(*archives), **options)
    for generation, archive in enumerate(archives, start=1):
        device.take(assigned(archive, generation=generation))
    return device


@pytest.mark.parametrize(("kept", "refs"), [(2, ["1.2.0", "1.3.0"]), (3, ["1.1.0", "1.2.0", "1.3.0"])])
def test_as_many_versions_stay_as_are_wanted(folder: Folder, kept: int, refs: list[str]) -> None:
    device = _with_four(folder, kept=kept)
    assert [str(ref) for ref in device.shelf.refs()] == [f"tiny@{one}" for one in refs]


def test_what_runs_already_is_confirmed_without_a_download(folder: Folder) -> None:
    archive = first_version(folder)
    supply = ArchiveSupply(archive)
    device = folder.device(supply)
    device.take(assigned(archive))
    supply.fetched.clear()
    device.take(assigned(archive, generation=2))
    assert (device.state, supply.fetched, device.versions.known_generation) == (UpdateState.CONFIRMED, [], 2)


def test_nothing_wanted_leaves_what_runs(folder: Folder) -> None:
    device = with_first(folder)
    device.take(None, generation=5)
    assert (device.runs, device.versions.known_generation) == ("tiny@1.0.0", 5)


# ---- refused


def _refused(folder: Folder, parts: Parts) -> Device:
    archive = folder.write(parts)
    device = with_first(folder, archive)
    device.take(assigned(archive, generation=2))
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
    supply = supply_of(folder, old)
    device = folder.device(supply)
    device.take(assigned(first_version(folder)))
    supply.fetched.clear()
    device.take(assigned(old, generation=2))
    assert supply.fetched == []


def test_version_turned_down_before_is_refused_without_a_download(folder: Folder) -> None:
    bad = folder.write(make_parts(version="1.1.0", damage=Damage.WEIGHTS))
    supply = ArchiveSupply(bad)
    device = folder.device(supply)
    device.take(assigned(bad))
    supply.fetched.clear()
    device.take(assigned(bad, generation=2))
    assert (device.state, supply.fetched) == (UpdateState.REFUSED, [])
    assert "turned down here before" in device.reason


def test_what_was_turned_down_stays_so_after_a_restart(folder: Folder) -> None:
    bad = folder.write(make_parts(version="1.1.0", damage=Damage.WEIGHTS))
    folder.device(ArchiveSupply(bad)).take(assigned(bad))
    device = folder.device(Away())
    device.take(assigned(bad, generation=2))
    assert device.state is UpdateState.REFUSED


def test_version_without_a_variant_for_this_device_is_refused(folder: Folder) -> None:
    archive = first_version(folder)
    device = folder.device(ArchiveSupply(archive), engines=())
    device.take(assigned(archive))
    assert device.state is UpdateState.REFUSED
    assert "it offers onnxruntime float32; here there is no engine" in device.reason


def test_manifest_of_another_version_than_assigned_is_refused(folder: Folder) -> None:
    archive = second_version(folder)
    data = open_bundle(archive).manifest_bytes
    supply = ArchiveSupply(archive)
    supply._targets["bundles/tiny/1.2.0/manifest.json"] = data
    device = folder.device(supply)
    device.take(msgspec.structs.replace(assigned(archive), bundle="tiny@1.2.0"))
    assert (device.state, device.reason) == (
        UpdateState.REFUSED,
        "the manifest is of tiny@1.1.0, assigned is tiny@1.2.0",
    )


def test_manifest_of_a_newer_edgeloop_is_refused_for_now(folder: Folder) -> None:
    archive = second_version(folder)
    supply = ArchiveSupply(archive)
    newer = to_json(json.loads(open_bundle(archive).manifest_bytes) | {"schema": 99})
    supply._targets["bundles/tiny/1.1.0/manifest.json"] = newer
    device = folder.device(supply)
    device.take(msgspec.structs.replace(assigned(archive), manifest_sha256=digest(newer)))
    assert device.state is UpdateState.REFUSED
    assert "cannot read what describes tiny@1.1.0" in device.reason
    assert "99" in device.reason
    assert device.versions.turned_down(digest(newer)) is None, "once edgeloop is newer here, it can"


def test_file_that_was_never_signed_is_refused(folder: Folder) -> None:
    archive = first_version(folder)
    supply = ArchiveSupply(archive)
    del supply._targets[file_target(open_bundle(archive).manifest.variants[0].file)]
    device = folder.device(supply)
    device.take(assigned(archive))
    assert (device.state, device.runs) == (UpdateState.REFUSED, None)


def test_second_candidate_is_taken_when_the_first_fails(folder: Folder) -> None:
    parts, _, good = two_variants("1.0.0")
    archive = folder.write(parts)
    device = folder.device(ArchiveSupply(archive))
    device.take(assigned(archive))
    assert device.versions.active is not None
    assert (device.state, device.versions.active.variant) == (UpdateState.CONFIRMED, good)


def test_second_candidate_is_fetched_only_after_the_first_failed(folder: Folder) -> None:
    parts, bad, good = two_variants("1.0.0")
    archive = folder.write(parts)
    supply = ArchiveSupply(archive)
    device = folder.device(supply)
    at_accepting: list[str] = []
    device.at_state = lambda state: (
        at_accepting.extend(supply.fetched) if state is UpdateState.ACCEPTING and not at_accepting else None
    )
    device.take(assigned(archive))
    assert (file_target(bad) in at_accepting, file_target(good) in at_accepting) == (True, False)
    assert device.states[2:5] == [UpdateState.ACCEPTING, UpdateState.DOWNLOADING, UpdateState.ACCEPTING]


def test_first_candidate_that_crashes_its_engine_leaves_the_second_to_be_taken(folder: Folder) -> None:
    good = make_parts()
    variant, model = good.manifest.variants[0], crashing()
    broken = msgspec.structs.replace(variant, file=digest(model), engine=EngineName.LITERT, size_bytes=len(model))
    files = good.files | {digest(model): model}
    manifest = msgspec.structs.replace(good.manifest, variants=(broken, variant), files=entries(files.values()))
    archive = folder.write(Parts(manifest, files))
    device = folder.device(ArchiveSupply(archive), engines=list(EngineName), ask=ask_process)
    device.take(assigned(archive))
    assert device.versions.active is not None
    assert (device.state, device.versions.active.variant) == (UpdateState.CONFIRMED, variant.file)


def test_version_that_fails_for_now_may_be_assigned_again(folder: Folder) -> None:
    async def no_memory(question: Question, manifest: bytes) -> Findings:
        return Findings(failure="it ran out of memory here", is_passing=True)

    archive = first_version(folder)
    device = folder.device(ArchiveSupply(archive), ask=no_memory)
    device.take(assigned(archive))
    assert (device.state, device.reason) == (
        UpdateState.REFUSED,
        "onnxruntime float32: it ran out of memory here",
    )
    again = folder.device(ArchiveSupply(archive))
    again.take(assigned(archive, generation=2))
    assert (again.state, again.runs) == (UpdateState.CONFIRMED, "tiny@1.0.0")


def test_variant_damaged_on_the_disk_is_fetched_anew(folder: Folder) -> None:
    parts, _, good = two_variants("1.0.0")
    archive = folder.write(parts)
    supply = ArchiveSupply(archive)
    device = folder.device(supply)
    device.shelf.put(good, parts.files[good])
    folder.damage(good)
    device.take(assigned(archive))
    assert (device.state, supply.fetched.count(file_target(good))) == (UpdateState.CONFIRMED, 1)


def test_file_that_versions_share_is_fetched_anew_where_the_disk_damaged_it(folder: Folder) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    shared = make_parts().manifest.golden.inputs
    assert shared == make_parts(weights=SURER).manifest.golden.inputs
    folder.damage(shared)
    device.take(assigned(second, generation=2))
    assert (device.state, device.runs) == (UpdateState.CONFIRMED, "tiny@1.1.0")


def test_file_that_a_version_at_work_runs_from_is_there_until_the_new_one_is(folder: Folder) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    shared = make_parts().manifest.golden.inputs
    seen: list[bool] = []

    class Looking(ArchiveSupply):
        """Looks whether what it is asked for is still there."""

        async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
            """See Supply.fetch."""
            if sha256 == shared:
                seen.append(shelf.has(shared))
            await super().fetch(target, shelf, sha256, size_bytes)

    folder.damage(shared)  # or the disk failed once, which looks alike
    again = folder.device(Looking(second))
    again.take(assigned(second, generation=2))
    assert (seen, again.state) == ([True], UpdateState.CONFIRMED)
    assert device.shelf.is_sound(shared)


def test_manifest_damaged_on_the_disk_is_fetched_anew(folder: Folder) -> None:
    archive = first_version(folder)
    supply = ArchiveSupply(archive)
    device = folder.device(supply)
    manifest = open_bundle(archive).manifest_bytes
    device.shelf.put(digest(manifest), manifest)
    folder.damage(digest(manifest))
    device.take(assigned(archive))
    assert device.state is UpdateState.CONFIRMED


def test_file_that_the_disk_damages_again_and_again_is_refused_for_now(folder: Folder) -> None:
    parts = make_parts()
    archive, golden = folder.write(parts), parts.manifest.golden.inputs

    class Damaging(ArchiveSupply):
        """Its disk spoils one file as soon as it is there."""

        async def fetch(self, target: str, shelf: Shelf, sha256: str, size_bytes: int) -> None:
            """See Supply.fetch."""
            await super().fetch(target, shelf, sha256, size_bytes)
            if sha256 == golden:
                folder.damage(golden)

    device = folder.device(Damaging(archive))
    device.take(assigned(archive))
    assert (device.state, "is damaged on the disk already" in device.reason) == (UpdateState.REFUSED, True)
    assert device.versions.turned_down(assigned(archive).manifest_sha256) is None


def test_hub_that_is_away_is_not_a_refusal(folder: Folder) -> None:
    archive = first_version(folder)
    device = folder.device(Away())
    with pytest.raises(Unavailable):
        device.take(assigned(archive))
    assert device.state is UpdateState.DOWNLOADING


def test_download_damaged_on_its_way_does_not_turn_good_content_down_for_good(folder: Folder) -> None:
    archive = first_version(folder)
    supply = ArchiveSupply(archive)
    supply.damage_next = file_target(open_bundle(archive).manifest.variants[0].file)
    device = folder.device(supply)
    with suppress(Corrupt):  # the agent waits and tries again
        device.take(assigned(archive))
    device.take(assigned(archive))
    assert (device.state, device.runs) == (UpdateState.CONFIRMED, "tiny@1.0.0")


# ---- killed at any instant


@pytest.mark.parametrize("state", UNFINISHED)
def test_update_killed_at_a_state_ends_confirmed(folder: Folder, state: UpdateState) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.take_until(state, assigned(second, generation=2))
    again = folder.device(supply_of(folder, second))
    again.updater.start()
    again.resume()
    assert (again.state, again.runs, again.active) == (UpdateState.CONFIRMED, "tiny@1.1.0", "tiny@1.1.0")


def test_version_that_takes_the_agent_down_each_time_is_refused(folder: Folder) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.take_until(UpdateState.ACCEPTING, assigned(second, generation=2))
    for _ in range(2):
        again = folder.device(supply_of(folder, second))
        again.updater.start(KILLED)
        again.resume_until(UpdateState.ACCEPTING)
    final = folder.device(supply_of(folder, second))
    final.updater.start(KILLED)
    final.resume()
    assert (final.state, final.runs) == (UpdateState.REFUSED, "tiny@1.0.0")
    assert "did not survive" in final.reason


@pytest.mark.parametrize("state", UNFINISHED)
def test_device_answers_right_after_a_kill(folder: Folder, state: UpdateState) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.take_until(state, assigned(second, generation=2))
    again = folder.device(Away())
    again.updater.start()
    assert again.runs == ("tiny@1.1.0" if state is UpdateState.ACTIVE else "tiny@1.0.0")


@pytest.mark.parametrize("state", UNFINISHED)
def test_bad_update_killed_at_a_state_never_runs(folder: Folder, state: UpdateState) -> None:
    bad = folder.write(make_parts(version="1.1.0", damage=Damage.WEIGHTS))
    device = with_first(folder, bad)
    device.kill_at(state)
    with suppress(Killed):  # it never becomes active, so there is nothing to be killed at then
        device.take(assigned(bad, generation=2))
    again = folder.device(supply_of(folder, bad))
    again.updater.start()
    again.resume()
    assert (again.state, again.runs) == (UpdateState.REFUSED, "tiny@1.0.0")


def test_kills_at_every_state_in_turn_end_confirmed(folder: Folder) -> None:
    second = second_version(folder)
    device = with_first(folder, second)
    device.take_until(UpdateState.DOWNLOADING, assigned(second, generation=2))
    for state in UNFINISHED[1:]:
        device = folder.device(supply_of(folder, second))
        device.updater.start()
        device.resume_until(state)
    last = folder.device(Away())
    last.updater.start()
    last.resume()
    assert (last.state, last.runs) == (UpdateState.CONFIRMED, "tiny@1.1.0")


def test_files_fetched_before_a_kill_are_not_fetched_again(folder: Folder) -> None:
    archive = first_version(folder)
    device = folder.device(ArchiveSupply(archive))
    device.take_until(UpdateState.VERIFYING, assigned(archive))
    supply = ArchiveSupply(archive)
    folder.device(supply).resume()
    assert supply.fetched == []


@pytest.mark.parametrize("state", [UpdateState.CONFIRMED, UpdateState.REFUSED])
def test_finished_update_is_not_taken_up_again(folder: Folder, state: UpdateState) -> None:
    bad = folder.write(make_parts(version="1.1.0", damage=Damage.WEIGHTS))
    device = with_first(folder, bad)
    if state is UpdateState.REFUSED:
        device.take(assigned(bad, generation=2))
    again = folder.device(Away())
    again.updater.start()
    again.resume()
    assert (again.states, again.state) == ([], state)


# ---- on watch


def _on_watch(folder: Folder) -> Device:
    """The next process after `left_on_watch`, without a network; nothing seen yet."""
    left_on_watch(folder)
    again = folder.device(Away())
    again.updater.start()
    return again


def test_disagreement_on_watch_goes_back_without_a_network(folder: Folder) -> None:
    device = _on_watch(folder)
    device.see(disagreements=20)
    device.resume()
    assert (device.state, device.runs, device.active) == (UpdateState.ROLLED_BACK, "tiny@1.0.0", "tiny@1.0.0")


def test_roll_back_says_why(folder: Folder) -> None:
    device = _on_watch(folder)
    device.see(disagreements=20)
    device.resume()
    assert device.reason == "on watch over 20 readings: 100% differ from the old version, allowed 10%"


def test_failures_on_watch_go_back(folder: Folder) -> None:
    device = _on_watch(folder)
    device.see(disagreements=0, errors=5)
    device.resume()
    assert (device.state, device.runs) == (UpdateState.ROLLED_BACK, "tiny@1.0.0")


def test_rolled_back_version_is_not_tried_again(folder: Folder) -> None:
    device = _on_watch(folder)
    device.see(disagreements=20)
    device.resume()
    device.take(assigned(second_version(folder), generation=3, watch=ON_WATCH))
    assert (device.state, device.runs) == (UpdateState.REFUSED, "tiny@1.0.0")


def test_first_version_that_goes_back_leaves_nothing_running(folder: Folder) -> None:
    archive = first_version(folder)
    device = folder.device(ArchiveSupply(archive))
    device.see_when_active(disagreements=0, errors=10)
    device.take(assigned(archive, watch=ON_WATCH))
    assert (device.state, device.runs, device.active) == (UpdateState.ROLLED_BACK, None, None)


def test_withdrawn_version_on_watch_goes_back(folder: Folder) -> None:
    device = _on_watch(folder)
    asyncio.run(device.updater.withdraw("something else is wanted"))
    assert (device.state, device.reason, device.runs) == (
        UpdateState.ROLLED_BACK,
        "something else is wanted",
        "tiny@1.0.0",
    )


def test_withdrawn_version_may_come_again(folder: Folder) -> None:
    device = _on_watch(folder)
    asyncio.run(device.updater.withdraw("something else is wanted"))
    assert device.versions.turned_down(assigned(second_version(folder)).manifest_sha256) is None


def test_confirmed_version_cannot_be_withdrawn(folder: Folder) -> None:
    device = with_first(folder)
    asyncio.run(device.updater.withdraw("something else is wanted"))
    assert (device.state, device.runs) == (UpdateState.CONFIRMED, "tiny@1.0.0")


def test_version_on_watch_that_is_assigned_again_still_needs_its_verdict(folder: Folder) -> None:
    device = _on_watch(folder)
    device.see(disagreements=20)
    device.take(assigned(second_version(folder), generation=3, watch=ON_WATCH))
    assert (device.state, device.runs) == (UpdateState.ROLLED_BACK, "tiny@1.0.0")


# ---- races


def test_setting_that_won_the_race_is_the_one_that_runs(folder: Folder) -> None:
    archive = first_version(folder)
    device = folder.device(ArchiveSupply(archive), race_s=0.02)
    device.take(assigned(archive))
    slot = device.slots.current
    assert slot is not None
    assert slot.active.is_raced
    bundle = open_bundle(archive)
    raced = load_fastest(bundle, bundle.manifest.variants[:1], race_s=0.0, folder=folder.device_folder / "races")
    assert raced.race is not None
    assert slot.active.setting == str(raced.race.winner.setting)


def _raced(folder: Folder) -> None:
    archive = first_version(folder)
    folder.device(ArchiveSupply(archive), race_s=0.02).take(assigned(archive))


def test_restart_takes_the_winner_that_is_remembered(folder: Folder) -> None:
    _raced(folder)
    again = folder.device(Away(), race_s=0.02)
    again.updater.start()
    slot = again.slots.current
    assert slot is not None
    assert slot.active.is_raced


def test_restart_on_another_machine_answers_at_once_and_races_anew_beside_that(folder: Folder) -> None:
    _raced(folder)
    folder.forget_races()
    again = folder.device(Away(), race_s=0.02)
    again.updater.start()
    before = again.slots.current
    again.resume()
    after = again.slots.current
    assert before is not None
    assert after is not None
    assert not before.active.is_raced
    assert after.active.is_raced
    assert after.drift is before.drift


def test_version_that_fails_its_new_race_goes_on_as_it_is(folder: Folder) -> None:
    async def slow(question: Question, manifest: bytes) -> Findings:
        return Findings(failure="it was not done within 1 s here and was stopped")

    _raced(folder)
    folder.forget_races()
    again = folder.device(Away(), race_s=0.02, ask=slow)
    again.updater.start()
    again.resume()
    assert (again.runs, again.state, again.states) == ("tiny@1.0.0", UpdateState.CONFIRMED, [])


# ---- damaged at start


def _with_second(folder: Folder) -> Device:
    """A device on which 1.1.0 is confirmed over 1.0.0."""
    second = second_version(folder)
    device = with_first(folder, second)
    device.take(assigned(second, generation=2))
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
    second = second_version(folder)
    device = with_first(folder, second, bad)
    device.take(assigned(second, generation=2))
    device.take(assigned(bad, generation=3))
    refused = device.reason
    folder.damage(_model(make_parts(weights=SURER)))
    again = folder.device(Away())
    again.updater.start()
    assert (again.runs, again.versions.turned_down(assigned(bad).manifest_sha256)) == ("tiny@1.0.0", refused)


def test_only_version_that_is_damaged_is_fetched_again_when_it_is_assigned(folder: Folder) -> None:
    archive = first_version(folder)
    with_first(folder)
    folder.damage(_model(make_parts()))
    device = folder.device(ArchiveSupply(archive))
    device.updater.start()
    device.take(assigned(archive, generation=2))
    assert (device.state, device.runs) == (UpdateState.CONFIRMED, "tiny@1.0.0")


def test_fake_supply_serves_what_it_signs(folder: Folder) -> None:
    archive = first_version(folder)
    bundle = open_bundle(archive)
    size_bytes = asyncio.run(
        ArchiveSupply(archive).check(manifest_target(bundle.manifest.ref), digest(bundle.manifest_bytes))
    )
    assert size_bytes == len(bundle.manifest_bytes)
