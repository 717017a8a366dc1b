"""A search over its sittings: what a fall costs, what the order of finishing changes, when it ends."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, InvalidInput, Unavailable
from edgeloop.toolchain.compress.plan import Body, CompressRecipe, Plan
from edgeloop.toolchain.compress.records import Records, Search, Trial
from edgeloop.toolchain.compress.sitting import Clock, SearchRun, best_so_far
from edgeloop.toolchain.compress.workbench import Task, Tried
from edgeloop.toolchain.package import Bounds
from edgeloop.toolchain.progress import silent
from landscape import LandscapeCrew, recipe_of, space_of
from small_disk import fill, small_disk

SHA = "a" * 64


def _search(wanted: CompressRecipe, **changed: object) -> Search:
    search = Search(
        recipe=wanted, model="m.keras", model_sha256=SHA, data="digits", data_sha256=SHA, data_seed=0,
        input_range=(0.0, 1.0),
    )  # fmt: skip
    return msgspec.structs.replace(search, **changed)


def _sit(folder: Path, crew: LandscapeCrew, recipe: CompressRecipe, *, budget_s: float = 600.0) -> SearchRun:
    records = Records(folder)
    search = records.begin(_search(recipe))
    run = SearchRun(records, search, space_of(recipe), Clock(budget_s, 0.0, time.monotonic()), silent)
    run.run(crew)
    return run


def _plans(run: SearchRun) -> list[Plan]:
    return [outcome.plan for outcome in run.outcomes]


@pytest.mark.parametrize("falls_after", [0, 1, 4, 5, 11, 23])
def test_a_search_that_fell_goes_on_as_if_it_had_not(tmp_path: Path, falls_after: int) -> None:
    recipe = recipe_of(trials=30)
    whole = _sit(tmp_path / "whole", LandscapeCrew(), recipe)
    with pytest.raises(KeyboardInterrupt):
        _sit(tmp_path / "torn", LandscapeCrew(falls_after=falls_after), recipe)
    crew = LandscapeCrew()
    again = _sit(tmp_path / "torn", crew, recipe)
    assert _plans(again) == _plans(whole)
    assert len(crew.asked) == 30 - falls_after


def test_a_search_whose_disk_fills_ends_with_what_to_do_and_goes_on_from_there(tmp_path: Path) -> None:
    recipe = recipe_of(trials=30)
    whole = _sit(tmp_path / "whole", LandscapeCrew(), recipe)
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(Unavailable, match=r"trials/.*Free some space|files/.*Free some space"):
            _sit(disk / "out", _Filling(disk, after=9), recipe)
        (disk / "ballast").unlink()
        crew = LandscapeCrew()
        again = _sit(disk / "out", crew, recipe)
        assert again.outcomes == whole.outcomes
        assert len(crew.asked) >= 20


class _Filling(LandscapeCrew):
    """Leaves no byte on the disk after some answers."""

    def __init__(self, disk: Path, *, after: int) -> None:
        super().__init__()
        self._disk = disk
        self._after = after

    def run(self, tasks: Sequence[Task], *, deadline: float) -> Iterator[tuple[int, Tried]]:
        for answer in super().run(tasks, deadline=deadline):
            self._after -= 1
            if self._after == 0:
                fill(self._disk)
            yield answer


def test_the_order_in_which_workers_finish_changes_nothing(tmp_path: Path) -> None:
    recipe = recipe_of(trials=30)
    forwards = _sit(tmp_path / "a", LandscapeCrew(), recipe)
    backwards = _sit(tmp_path / "b", LandscapeCrew(backwards=True), recipe)
    assert forwards.outcomes == backwards.outcomes


def test_it_ends_after_exactly_so_many_trials(tmp_path: Path) -> None:
    assert len(_sit(tmp_path, LandscapeCrew(), recipe_of(trials=7)).outcomes) == 7


def test_more_trials_go_on_from_those_that_are_there(tmp_path: Path) -> None:
    _sit(tmp_path, LandscapeCrew(), recipe_of(trials=8))
    crew = LandscapeCrew()
    assert len(_sit(tmp_path, crew, recipe_of(trials=12)).outcomes) == 12
    assert len(crew.asked) == 4


def test_a_spent_budget_tries_nothing(tmp_path: Path) -> None:
    crew = LandscapeCrew()
    records = Records(tmp_path)
    recipe = recipe_of(trials=None)
    search = records.begin(_search(recipe))
    SearchRun(records, search, space_of(recipe), Clock(60.0, 60.0, time.monotonic()), silent).run(crew)
    assert crew.asked == []


def test_a_body_is_trained_once_and_handed_to_its_other_finishes(tmp_path: Path) -> None:
    crew = LandscapeCrew()
    _sit(tmp_path, crew, recipe_of(trials=40))
    seen: set[Body] = set()
    for task in crew.asked:
        if task.plan.body.images_seen:
            assert task.body == (to_json(task.plan.body) if task.plan.body in seen else None)
            seen.add(task.plan.body)
    assert seen


def test_a_stage_goes_on_from_the_one_before(tmp_path: Path) -> None:
    crew = LandscapeCrew()
    _sit(tmp_path, crew, recipe_of(trials=40))
    later = [task for task in crew.asked if task.plan.body.before is not None and task.body is None]
    assert later
    for task in later:
        assert task.plan.body.before is not None
        assert task.before == to_json(task.plan.body.before)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model_sha256": "b" * 64}, "model"),
        ({"data_sha256": "b" * 64}, "data"),
        ({"data_seed": 1}, "data seed"),
        ({"input_range": (-1.0, 1.0)}, "input range"),
        ({"recipe": recipe_of(seed=9)}, "recipe seed"),
        ({"recipe": recipe_of(Bounds(max_drop_points=2.0))}, "recipe bounds"),
    ],
)
def test_another_search_is_not_mixed_into_a_folder(tmp_path: Path, changed: dict[str, object], named: str) -> None:
    Records(tmp_path).begin(_search(recipe_of()))
    with pytest.raises(InvalidInput, match=rf"another search \(it differs in {named}\)"):
        Records(tmp_path).begin(_search(recipe_of(), **changed))


def test_a_search_keeps_the_training_length_that_it_began_with(tmp_path: Path) -> None:
    began = _search(msgspec.structs.replace(recipe_of(), images_seen=1_000))
    longer = _search(msgspec.structs.replace(recipe_of(), images_seen=9_000, budget_s=5_000.0))
    Records(tmp_path).begin(began)
    assert Records(tmp_path).begin(longer).recipe.images_seen == 1_000
    assert Records(tmp_path).search().recipe.budget_s == 5_000.0


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    _sit(tmp_path, LandscapeCrew(), recipe_of(trials=4))
    (tmp_path / "trials" / "0002.json").write_bytes(b'{"number":')
    with pytest.raises(Corrupt, match=r"0002\.json"):
        Records(tmp_path).trials()


def test_trials_are_kept_whole_with_their_files(tmp_path: Path) -> None:
    run = _sit(tmp_path, LandscapeCrew(), recipe_of(trials=10))
    records = Records(tmp_path)
    trials = records.trials()
    assert [trial.outcome for trial in trials] == run.outcomes
    assert all(isinstance(trial, Trial) and records.read(trial.outcome.variant) for trial in trials)


def test_best_so_far_is_the_smallest_within_the_bounds_else_the_nearest(tmp_path: Path) -> None:
    recipe = recipe_of()
    run = _sit(tmp_path, LandscapeCrew(), recipe)
    within = [o for o in run.outcomes if o.lost_points <= 0.3 and o.size_bytes <= 16 * 1024]
    smallest = min(outcome.size_bytes for outcome in within)
    assert best_so_far(run.outcomes, recipe).startswith(f"best {smallest:,} B")
    assert best_so_far(run.outcomes[:5], recipe).startswith("nearest ")
    assert best_so_far([], recipe) == "nothing yet"
