"""What is proposed next: a function of the outcomes, within the space, never twice, longer for the best."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.toolchain.compress.plan import Body, BodyKind, CompressRecipe, Finish, Outcome, Plan
from edgeloop.toolchain.compress.propose import GENERATION, propose
from edgeloop.toolchain.compress.space import Space, finishes
from edgeloop.toolchain.package import Bounds
from edgeloop.toolchain.quantize.recipe import Calibration, Granularity
from landscape import LONG, SHORT, parameters, recipe_of, space_of
from landscape import judge as judge_plan


def _search(
    recipe: CompressRecipe, space: Space, *, trials: int = 40, judge: Callable[[Plan], Outcome] = judge_plan
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while len(outcomes) < trials:
        plans = propose(
            recipe, space, outcomes, share_done=len(outcomes) / trials, images_left=lambda _body: LONG, workers=2
        )
        if not plans:
            break
        outcomes += [judge(plan) for plan in plans]
    return outcomes


def test_same_seed_proposes_the_same_plans() -> None:
    recipe = recipe_of()
    first, second = _search(recipe, space_of(recipe)), _search(recipe, space_of(recipe))
    assert [one.plan for one in first] == [one.plan for one in second]


def test_another_seed_proposes_others() -> None:
    recipe, other = recipe_of(), recipe_of(seed=4)
    assert _search(recipe, space_of(recipe)) != _search(other, space_of(other))


def test_no_plan_is_proposed_twice() -> None:
    recipe = recipe_of()
    plans = [outcome.plan for outcome in _search(recipe, space_of(recipe), trials=60)]
    assert len(plans) == len(set(plans))


def test_the_source_as_it_is_comes_first_in_every_finish() -> None:
    recipe = recipe_of()
    plans = [outcome.plan for outcome in _search(recipe, space_of(recipe), trials=8)]
    plain = [plan.finish.precision for plan in plans if plan.body.kind is BodyKind.SOURCE]
    assert plain == [Precision.INT8, Precision.INT8_WEIGHTS, Precision.FLOAT16, Precision.FLOAT32]
    assert all(plan.body.kind is BodyKind.SOURCE for plan in plans[:4])


def test_students_that_cannot_fit_are_never_trained() -> None:
    recipe = recipe_of()
    students = [o.plan.body for o in _search(recipe, space_of(recipe)) if o.plan.body.kind is BodyKind.STUDENT]
    assert students
    assert max(parameters(body) for body in students) <= 16 * 1024


@pytest.mark.parametrize("kind", [BodyKind.PRUNED, BodyKind.STUDENT])
def test_a_source_that_cannot_be_cut_is_not_pruned(kind: BodyKind) -> None:
    recipe = recipe_of()
    found = {o.plan.body.kind for o in _search(recipe, space_of(recipe, can_prune=False))}
    assert (kind in found) is (kind is BodyKind.STUDENT)


def test_input_that_is_no_image_is_not_made_smaller() -> None:
    recipe = recipe_of()
    assert all(o.plan.body.side_share == 1.0 for o in _search(recipe, space_of(recipe, can_resize=False)))


def test_the_best_train_longer_and_reach_the_bounds() -> None:
    recipe = recipe_of()
    outcomes = _search(recipe, space_of(recipe))
    within = [o for o in outcomes if o.lost_points <= 0.3 and o.size_bytes <= 16 * 1024]
    assert within
    assert all(o.plan.body.images_seen > SHORT for o in within)


def _trained_next(
    recipe: CompressRecipe, outcomes: list[Outcome], *, share_done: float, left: int, workers: int = 2
) -> tuple[Plan, ...]:
    """The next plans that train, once all finishes of what is trained are done."""
    while True:
        plans = propose(
            recipe, space_of(recipe), outcomes, share_done=share_done, images_left=lambda _body: left, workers=workers
        )
        trained = {outcome.plan.body for outcome in outcomes}
        if any(plan.body not in trained for plan in plans) or not plans:
            return plans
        outcomes = [*outcomes, *map(judge_plan, plans)]


def test_training_is_never_longer_than_the_time_left_allows() -> None:
    recipe = recipe_of()
    outcomes = _search(recipe, space_of(recipe), trials=20)
    plans = _trained_next(recipe, outcomes, share_done=0.9, left=SHORT)
    assert plans
    assert all(plan.body.stages[-1] <= SHORT for plan in plans)


def _by_time(outcomes: list[Outcome], *, share_done: float, left: int, workers: int = 2) -> list[Body]:
    """What trains next where time ends the search."""
    recipe = msgspec.structs.replace(recipe_of(trials=None), budget_s=600.0)
    plans = _trained_next(recipe, outcomes, share_done=share_done, left=left, workers=workers)
    return [plan.body for plan in plans]


def test_the_second_half_of_a_budget_is_filled_stage_by_stage() -> None:
    recipe = recipe_of()
    outcomes = _search(recipe, space_of(recipe), trials=20)
    before = {o.plan.body for o in outcomes}
    first = _by_time(outcomes, share_done=0.5, left=10_000)
    assert all(body.before in before for body in first)
    assert {body.stages[-1] for body in first} == {6_000}
    last = _by_time(outcomes, share_done=0.8, left=10_000)
    assert {body.stages[-1] for body in last} == {10_000}


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_time_is_filled_by_as_many_bodies_as_there_are_workers(workers: int) -> None:
    recipe = recipe_of()
    outcomes = _search(recipe, space_of(recipe), trials=20)
    assert len(set(_by_time(outcomes, share_done=0.5, left=10_000, workers=workers))) == workers


def test_a_body_whose_last_stage_failed_is_let_be() -> None:
    recipe = recipe_of()
    outcomes = _search(recipe, space_of(recipe), trials=20)
    (best, *_) = _by_time(outcomes, share_done=0.5, left=10_000)
    failed = Outcome(plan=Plan(body=best, finish=Finish()), failure="the loss turned nan")
    assert best.untrained not in {body.untrained for body in _by_time([*outcomes, failed], share_done=0.5, left=9_000)}


def test_a_bound_that_nothing_comes_near_to_does_not_end_the_search() -> None:
    recipe = recipe_of(Bounds(max_drop_points=0.001, max_size_bytes=64 * 2**20))
    assert len(_search(recipe, space_of(recipe), trials=30)) >= 30


def _costly(plan: Plan) -> Outcome:
    """As `judge`, and rounding costs 0.2 points where nothing is done about it."""
    outcome = judge_plan(plan)
    costs = plan.finish == Finish()
    return msgspec.structs.replace(outcome, lost_points=outcome.lost_points + (0.2 if costs else 0.0))


def test_a_body_that_loses_to_quantization_is_offered_cures() -> None:
    recipe = recipe_of()
    outcomes = _search(recipe, space_of(recipe), judge=_costly, trials=50)
    tried = {o.plan.finish for o in outcomes if o.plan.body.kind is not BodyKind.SOURCE}
    assert Finish(calibration=Calibration.MSE) in tried
    assert Finish(aware_images=SHORT) in tried
    assert {Finish(correct_bias=True), Finish(equalize=True), Finish(mixed_agreement=0.998)} <= tried


@pytest.mark.parametrize("is_keras", [True, False])
def test_a_source_that_loses_to_quantization_is_cured_as_far_as_its_format_goes(is_keras: bool) -> None:
    recipe = recipe_of(Bounds(max_drop_points=0.1))
    outcomes = _search(recipe, space_of(recipe, can_prune=is_keras), judge=_costly, trials=30)
    tried = {o.plan.finish for o in outcomes if o.plan.body.kind is BodyKind.SOURCE}
    assert {Finish(calibration=Calibration.MSE), Finish(correct_bias=True), Finish(mixed_agreement=0.998)} <= tried
    assert ({Finish(aware_images=SHORT), Finish(equalize=True)} <= tried) is is_keras


def test_a_source_that_is_too_large_all_the_same_is_not_cured() -> None:
    recipe = recipe_of()
    tried = {o.plan.finish for o in _search(recipe, space_of(recipe), judge=_costly) if not o.plan.body.images_seen}
    assert tried == {Finish(precision=precision) for precision in recipe.precisions}


def test_a_source_is_mixed_only_where_it_can_go_as_it_is() -> None:
    recipe = msgspec.structs.replace(
        recipe_of(Bounds(max_drop_points=0.1)), engines=(EngineName.LITERT, EngineName.ONNXRUNTIME)
    )
    both = finishes(recipe, tuple((engine, one) for engine in recipe.engines for one in Precision))
    onnx = tuple(finish for finish in both if finish.engine is EngineName.ONNXRUNTIME)
    space = replace(space_of(recipe, can_prune=False), as_it_is=onnx, finishes=both)

    def judge(plan: Plan) -> Outcome:
        outcome = judge_plan(plan)
        return msgspec.structs.replace(
            outcome, lost_points=outcome.lost_points + (0.2 if plan.finish == onnx[0] else 0)
        )

    tried = {o.plan.finish for o in _search(recipe, space, judge=judge) if o.plan.body.kind is BodyKind.SOURCE}
    assert {finish.engine for finish in tried} == {EngineName.ONNXRUNTIME}
    assert msgspec.structs.replace(onnx[0], calibration=Calibration.MSE) in tried
    assert not any(finish.mixed_agreement for finish in tried)


def test_a_body_that_nearly_fits_is_tried_with_fewer_scales() -> None:
    recipe = recipe_of()
    tried = {o.plan.finish for o in _search(recipe, space_of(recipe)) if o.plan.body.images_seen > SHORT}
    assert Finish(granularity=Granularity.TENSOR) in tried


def test_layers_have_four_bits_where_they_bear_it_if_four_are_asked_for() -> None:
    recipe = msgspec.structs.replace(recipe_of(), precisions=(Precision.INT8, Precision.INT4))
    mixed = Finish(precision=Precision.INT4, mixed_agreement=0.99)
    assert mixed in {o.plan.finish for o in _search(recipe, space_of(recipe)) if o.plan.body.images_seen > SHORT}
    plain = replace(space_of(recipe), can_mix=False)
    assert mixed not in {o.plan.finish for o in _search(recipe, plain)}


def test_a_body_that_loses_nothing_to_quantization_gets_no_cures() -> None:
    recipe = recipe_of()
    tried = {o.plan.finish for o in _search(recipe, space_of(recipe)) if o.plan.body.kind is not BodyKind.SOURCE}
    assert tried == {Finish(), Finish(granularity=Granularity.TENSOR)}


def test_trials_that_gave_no_model_do_not_stop_the_search() -> None:
    recipe = recipe_of()

    def judge(plan: Plan) -> Outcome:
        if plan.body.kind is BodyKind.PRUNED:
            return Outcome(plan=plan, failure="layer lambda is unknown")
        return judge_plan(plan)

    assert len(_search(recipe, space_of(recipe), judge=judge)) >= 40


def test_without_bounds_the_search_still_offers_large_and_small() -> None:
    recipe = recipe_of(Bounds())
    sizes = [o.size_bytes for o in _search(recipe, space_of(recipe))]
    assert max(sizes) > 10 * min(sizes)


def test_a_generation_is_never_larger_than_stated() -> None:
    recipe = recipe_of()
    space, outcomes = space_of(recipe), []
    for _ in range(10):
        plans = propose(
            recipe, space, outcomes, share_done=len(outcomes) / 40, images_left=lambda _body: LONG, workers=2
        )
        assert 0 < len(plans) <= GENERATION
        outcomes += [judge_plan(plan) for plan in plans]
