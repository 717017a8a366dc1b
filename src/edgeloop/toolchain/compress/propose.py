"""Which plans come next: a pure function of what was asked and what came out, so a search can be taken up again.

First the source as it is and a ladder of students; then Optuna's multi-objective tree-structured Parzen estimator
proposes bodies at short training; then the best bodies train on, as in successive halving (Jamieson and Talwalkar
2016, arXiv 1502.07943), in the second half of a budget for as long as it lasts, and get their other finishes. It
steers by what the seed decides (points lost, bytes, bit operations), never by a clock: the clock is measured at the
end and held to the bounds there (ADR 0013).
Source: Ozaki et al. 2022, "Multiobjective tree-structured Parzen estimator", JAIR 73.
"""

import math
import statistics
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.toolchain.compress.plan import Body, BodyKind, CompressRecipe, Outcome, Plan, Taught
from edgeloop.toolchain.compress.space import (
    BITS,
    DEPTHS,
    GROWTHS,
    KEEPS,
    RANKS,
    SHARES_OF,
    SIDE_SHARES,
    TEACHINGS,
    WIDTHS,
    Space,
)
from edgeloop.toolchain.nets.name import NetName
from edgeloop.toolchain.package import Bounds
from edgeloop.toolchain.prune.measures import Of
from edgeloop.toolchain.quantize.recipe import Calibration

GENERATION = 4
"""Plans proposed at once: what came out of one generation shapes the next, however many workers try them."""

EXPLORE_SHARE = 0.25
"""Of the budget, until when new bodies are sought; after that the best train longer."""

FILL_SHARE = 0.45
"""Of the budget, from when the best train for as long as there is time: what short training ranks first is not sure to
stay there, and what trained for longest is what a person gets."""

_NEARLY_OVER_SHARE = 0.65
_FILLED_AT_ONCE = 0.6

_LONGER = 4
_AT_LEAST_LONGER, _AT_LEAST_FILLED = 1.5, 1.15
_TRAINED_AT_ONCE = 2
_EXPECTED_GAIN = 0.6
_SLACK_POINTS = 0.2
_LEAST_SHARE = 0.1
_WORTH_CURING_POINTS = 0.1
_LEAST_BY_TENSOR = 0.5
_MOST_MIXED_BYTES = 2 * 2**20  # each layer is measured by itself: beyond this it takes longer than it is worth
_ASKS = 120


def propose(
    recipe: CompressRecipe,
    space: Space,
    outcomes: Sequence[Outcome],
    *,
    share_done: float,
    images_left: Callable[[Body], int],
    workers: int,
) -> tuple[Plan, ...]:
    """The next generation, none of which was tried before; empty when there is nothing left to try.

    outcomes: of all earlier generations, in order. share_done: of the budget, 0..1. images_left: how many images
    a body can be shown in the time left, besides those that it has seen. workers: how many try plans at once; read only
    where time ends the search, and not a number of trials.
    """
    tried = {outcome.plan for outcome in outcomes}
    first = [plan for plan in space.first_plans(recipe.bounds) if plan not in tried]
    if first:
        return tuple(first[:GENERATION])
    # What cures the source must not eat the time of bodies that are to be found first.
    finishing = _finishing(recipe, space, outcomes, tried, with_source=share_done >= EXPLORE_SHARE)
    if finishing:
        return tuple(finishing[:GENERATION])
    by_time = recipe.trials is None
    if share_done < (EXPLORE_SHARE if by_time else FILL_SHARE):
        found = _explored(recipe, space, outcomes, tried)
        if found:
            return found
    # Where trials are counted, and not time, there is no rest of the time to fill.
    longer = (
        _filled(recipe, space, outcomes, images_left, share=_fill_share(share_done), workers=workers)
        if by_time and share_done >= FILL_SHARE
        else _longer(recipe, space, outcomes, images_left)
    )
    untried = tuple(plan for plan in longer if plan not in tried)
    return untried or _explored(recipe, space, outcomes, tried)


def violations(outcome: Outcome, bounds: Bounds) -> tuple[float, float]:
    """How far beyond the bounds on accuracy, in points, and on size, in shares of the bound; above 0 is beyond."""
    lost = 0.0 if bounds.max_drop_points is None else outcome.lost_points - bounds.max_drop_points
    size = 0.0 if bounds.max_size_bytes is None else outcome.size_bytes / bounds.max_size_bytes - 1
    return lost, size


def _finishing(
    recipe: CompressRecipe, space: Space, outcomes: Sequence[Outcome], tried: set[Plan], *, with_source: bool
) -> list[Plan]:
    """For the source and bodies that trained for longer: other engines, fewer bits in layers that bear it, and cures
    where quantization costs something that matters."""
    plans: list[Plan] = []
    source = [o for o in outcomes if o.plan.body.kind is BodyKind.SOURCE and not o.failure]
    long = [o for o in _latest(outcomes) if o.plan.body.images_seen > space.images_seen]
    for outcome in (*(source if with_source else ()), *long):
        if outcome.plan.finish == space.finishes_of(outcome.plan.body)[0]:
            plans += _offered(outcome, recipe, space)
    return [plan for plan in dict.fromkeys(plans) if plan not in tried and space.can_fit(plan, recipe.bounds)]


def _offered(outcome: Outcome, recipe: CompressRecipe, space: Space) -> list[Plan]:
    """Other finishes of a body that are worth a trial after what came of it in its first one."""
    plan, most = outcome.plan, recipe.bounds.max_drop_points
    offered = [one for one in space.siblings(plan.body) if one.finish.engine is not plan.finish.engine]
    if most is not None and outcome.body_lost_points > most + _SLACK_POINTS:
        return offered
    if most is None or outcome.lost_points <= most:
        offered += [one for one in space.lighter(plan) if _may_fit(one, outcome, recipe.bounds)]
    costs = outcome.lost_points - outcome.body_lost_points
    if costs >= _WORTH_CURING_POINTS and violations(outcome, recipe.bounds)[1] <= 0:
        offered += _cures(plan, space)
    can_mix = outcome.size_bytes <= _MOST_MIXED_BYTES
    return [one for one in offered if can_mix or not one.finish.mixed_agreement]


def _may_fit(lighter: Plan, outcome: Outcome, bounds: Bounds) -> bool:
    """Whether a lighter finish of what came out may be small enough: at best all of the file shrinks with the bits,
    and scales take less than a half of it."""
    bits, fewer = BITS[outcome.plan.finish.precision][0], BITS[lighter.finish.precision][0]
    share = fewer / bits if fewer < bits else _LEAST_BY_TENSOR
    return bounds.max_size_bytes is None or share * outcome.size_bytes <= bounds.max_size_bytes


def _cures(plan: Plan, space: Space) -> list[Plan]:
    """Other calibration, training that knows of the quantization, what evens out scales and means, more bits in the
    layers that suffer most, and finishes that lose less."""
    finish = plan.finish
    cured = [msgspec.structs.replace(finish, calibration=Calibration.MSE)]
    if space.can_teach(plan.body):
        cured.append(msgspec.structs.replace(finish, aware_images=space.images_seen))
        cured.append(msgspec.structs.replace(finish, equalize=True))
    if finish.engine is not EngineName.ONNXRUNTIME and finish.precision is Precision.INT8:
        cured.append(msgspec.structs.replace(finish, correct_bias=True))
    mixes = [one for one in space.mixes(plan.body) if one.finish.precision is finish.precision]
    others = [one for one in space.siblings(plan.body) if one.finish.engine is finish.engine]
    return [*(Plan(body=plan.body, finish=one) for one in cured if finish.is_integer), *mixes, *others]


def _latest(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those of trained bodies, each body as it was after the last of its stages; none of which that stage failed."""
    mine = [o for o in outcomes if o.plan.body.kind is not BodyKind.SOURCE]
    stages: dict[Body, int] = {}
    for outcome in mine:
        body = outcome.plan.body
        stages[body.untrained] = max(len(body.stages), stages.get(body.untrained, 0))
    return [o for o in mine if not o.failure and len(o.plan.body.stages) == stages[o.plan.body.untrained]]


def _fill_share(share_done: float) -> float:
    """The share of the time left that the next stage takes: not all of it at once, since a stage that does not come
    to its end is lost."""
    return 1.0 if share_done >= _NEARLY_OVER_SHARE else _FILLED_AT_ONCE


def _longer(
    recipe: CompressRecipe, space: Space, outcomes: Sequence[Outcome], images_left: Callable[[Body], int]
) -> list[Plan]:
    """The most promising bodies, to be trained on to four times the images."""
    fitting = _fitting(recipe, space, outcomes)
    order = [*_never_longer(fitting, space), *_alternating(_promising(recipe, space, outcomes, images_left))]
    longer = _trained_on(
        order,
        space,
        more=lambda body: min((_LONGER - 1) * body.images_seen, images_left(body)),
        at_least=_AT_LEAST_LONGER,
    )
    return longer[:_TRAINED_AT_ONCE]


def _filled(
    recipe: CompressRecipe,
    space: Space,
    outcomes: Sequence[Outcome],
    images_left: Callable[[Body], int],
    *,
    share: float,
    workers: int,
) -> list[Plan]:
    """The most promising bodies, one for each worker at most, to be trained on for this share of the time left.

    Where fewer are promising, workers idle: cores share caches and memory, and one without hope slows those with.
    """
    filled = _trained_on(
        _alternating(_promising(recipe, space, outcomes, images_left)),
        space,
        more=lambda body: int(share * images_left(body)),
        at_least=_AT_LEAST_FILLED,
    )
    return filled[: min(workers, GENERATION)]


def _trained_on(order: Iterable[Outcome], space: Space, *, more: Callable[[Body], int], at_least: float) -> list[Plan]:
    """These bodies after one more stage, in order, each once. more: images of that stage, as far as the longest
    training allows; at_least: times the images seen so far that it must bring a body to, to be worth it."""
    chosen = dict[Plan, None]()
    for outcome in order:
        body = outcome.plan.body
        seen = body.images_seen
        stage = min(more(body), space.longest - seen)
        if stage >= (at_least - 1) * seen:
            chosen[Plan(body=body.for_longer(seen + stage), finish=space.first_finish)] = None
    return list(chosen)


def _fitting(recipe: CompressRecipe, space: Space, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The latest of each body, as far as its file is small enough."""
    return [
        outcome
        for outcome in _latest(outcomes)
        if violations(outcome, recipe.bounds)[1] <= 0 and outcome.plan.finish == space.first_finish
    ]


def _never_longer(fitting: Sequence[Outcome], space: Space) -> list[Outcome]:
    """The most accurate of each kind of which none trained for longer yet: how much that brings differs by kind.

    Measured on MNIST: from 60,000 to 240,000 images a student's loss fell to a fifth, a cut network's to two thirds.
    """
    kinds: dict[tuple[BodyKind, NetName], list[Outcome]] = {}
    for outcome in fitting:
        body = outcome.plan.body
        kinds.setdefault((body.kind, body.net), []).append(outcome)
    best = [
        min(alike, key=lambda outcome: outcome.lost_points)
        for alike in kinds.values()
        if all(outcome.plan.body.images_seen <= space.images_seen for outcome in alike)
    ]
    return sorted(best, key=lambda outcome: outcome.lost_points)


def _promising(
    recipe: CompressRecipe, space: Space, outcomes: Sequence[Outcome], images_left: Callable[[Body], int]
) -> list[Outcome]:
    """Those that may come within the bound on accuracy, or as near to the source as any; the lightest first."""
    latest = _fitting(recipe, space, outcomes)
    if not latest:
        return []
    judged = [o for o in outcomes if not o.failure and o.plan.finish == space.first_finish]
    hoped = {}
    for outcome in latest:
        body = outcome.plan.body
        gain = _gain([o for o in judged if (o.plan.body.kind, o.plan.body.net) == (body.kind, body.net)])
        most = min(space.longest, body.images_seen + images_left(body))
        # Twice at most: hope is not stretched further.
        rungs = min(2.0, math.log(max(1.0, most / body.images_seen), _LONGER))
        hoped[outcome.plan] = outcome.lost_points * gain**rungs
    bound = recipe.bounds.max_drop_points
    reach = max(min(hoped.values()), 0.0 if bound is None else bound) + _SLACK_POINTS
    return sorted((o for o in latest if hoped[o.plan] <= reach), key=_weight)


def _gain(outcomes: Sequence[Outcome]) -> float:
    """What training to four times the images left of the points lost, among like bodies so far: the median share."""
    shares = [
        max(_LEAST_SHARE, longer.lost_points / shorter.lost_points)
        ** (1 / math.log(longer.plan.body.images_seen / shorter.plan.body.images_seen, _LONGER))
        for longer in outcomes
        for shorter in outcomes
        if longer.plan.body.like(shorter.plan.body)
        and longer.plan.body.images_seen > shorter.plan.body.images_seen
        and shorter.lost_points > 0
    ]
    return min(1.0, statistics.median(shares)) if shares else _EXPECTED_GAIN


def _weight(outcome: Outcome) -> float:
    """Smaller is smaller and quicker: the geometric mean of bytes and bit operations."""
    return math.sqrt(outcome.size_bytes * max(1, outcome.bit_operations))


def _alternating(by_weight: Sequence[Outcome]) -> Iterable[Outcome]:
    """The most accurate, the lightest, the next most accurate, the next lightest, ..."""
    by_loss = sorted(by_weight, key=lambda outcome: outcome.lost_points)
    for accurate, light in zip(by_loss, by_weight, strict=True):
        yield accurate
        yield light


def _explored(recipe: CompressRecipe, space: Space, outcomes: Sequence[Outcome], tried: set[Plan]) -> tuple[Plan, ...]:
    """A generation from Optuna, which is told everything so far anew: its state is a function of the outcomes."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = [BodyKind.STUDENT, *([BodyKind.PRUNED] if space.can_prune else [])]
    sampled = (_tpe(recipe, len(outcomes)), optuna.samplers.RandomSampler(seed=_seed(recipe, len(outcomes))))
    told = [o for o in outcomes if o.plan.body.kind in kinds and not o.failure]
    # While none is accurate enough for its size, those of half the size are not it, if there are larger ones.
    is_reached = any(max(violations(o, recipe.bounds)) <= 0 for o in told)
    bodies = {plan.body.untrained for plan in tried}
    found: list[Plan] = []
    studies = [_study(sampler, recipe.bounds, space, told) for sampler in sampled]
    for ask in range(_ASKS):
        if len(found) == GENERATION:
            break
        # By turns: the estimator alone dwells where a tight bound lets little through.
        study = studies[ask % len(studies)]
        trial = study.ask()
        body = _suggested(trial, kinds, recipe, space)
        plan = Plan(body=body, finish=space.first_finish)
        is_hopeless = ask < _ASKS // 2 and not is_reached and space.is_far_below(plan, recipe.bounds)
        if body.untrained in bodies or is_hopeless or not space.can_fit(plan, recipe.bounds):
            study.tell(trial, state=TrialState.FAIL)
            continue
        bodies.add(body.untrained)
        found.append(plan)
    return tuple(found)


def _seed(recipe: CompressRecipe, number: int) -> int:
    return recipe.seed * 1_000_003 + number


def _tpe(recipe: CompressRecipe, number: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        # Grouping bears Optuna's mark "experimental".
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            n_startup_trials=2 * GENERATION, multivariate=True, group=True, seed=_seed(recipe, number)
        )


def _study(
    sampler: optuna.samplers.BaseSampler, bounds: Bounds, space: Space, outcomes: Sequence[Outcome]
) -> optuna.Study:
    study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
    for outcome in outcomes:
        study.add_trial(_told(outcome, bounds, space))
    return study


def _told(outcome: Outcome, bounds: Bounds, space: Space) -> FrozenTrial:
    params, distributions = _coordinates(outcome.plan.body, space)
    lost, size = violations(outcome, bounds)
    return create_trial(
        params=params,
        distributions=distributions,
        values=[
            outcome.lost_points,
            math.log(max(1, outcome.size_bytes)),
            math.log(max(1, outcome.bit_operations)),
        ],
        constraints={"lost": lost, "size": size},
    )


_KIND = CategoricalDistribution([BodyKind.STUDENT.value, BodyKind.PRUNED.value])
_TAUGHT = CategoricalDistribution([taught.value for taught in TEACHINGS])
_STUDENT: dict[str, BaseDistribution] = {
    "taught": _TAUGHT,
    "width": FloatDistribution(*WIDTHS, log=True),
    "depth": IntDistribution(*DEPTHS),
    "growth": CategoricalDistribution(list(GROWTHS)),
    "side_share": CategoricalDistribution(list(SIDE_SHARES)),
}
_PRUNED: dict[str, BaseDistribution] = {
    "taught": _TAUGHT,
    "keep": FloatDistribution(*KEEPS, log=True),
    "of": CategoricalDistribution([of.value for of in SHARES_OF]),
    "by": CategoricalDistribution(list(RANKS)),
}


def _coordinates(body: Body, space: Space) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """Where a body lies in Optuna's space."""
    if body.kind is BodyKind.PRUNED:
        own, params = dict(_PRUNED), {"kind": body.kind.value}
    else:
        nets = CategoricalDistribution([net.value for net in space.nets])
        own, params = {"net": nets, **_STUDENT}, {"kind": body.kind.value, "net": body.net.value}
    found = {name: getattr(body, name) for name in own if name != "net"}
    found["taught"] = body.taught.value
    if "of" in found:
        found["of"] = body.of.value
    return {**params, **found}, {"kind": _KIND, **own}


def _suggested(trial: optuna.Trial, kinds: Sequence[BodyKind], recipe: CompressRecipe, space: Space) -> Body:
    kind = trial.suggest_categorical("kind", [BodyKind.STUDENT.value, BodyKind.PRUNED.value])
    taught = Taught(str(trial.suggest_categorical("taught", [taught.value for taught in TEACHINGS])))
    if kind == BodyKind.PRUNED.value and BodyKind.PRUNED in kinds:
        keep = trial.suggest_float("keep", *KEEPS, log=True)
        of = Of(trial.suggest_categorical("of", [of.value for of in SHARES_OF]))
        if recipe.bounds.max_size_bytes is not None:
            of = Of.PARAMETERS  # what a share of the work weighs is not known before it is cut
        return space.pruned(round(keep, 4), of, str(trial.suggest_categorical("by", list(RANKS))), taught)
    net = NetName(trial.suggest_categorical("net", [net.value for net in space.nets]))
    width = trial.suggest_float("width", *WIDTHS, log=True)
    depth = trial.suggest_int("depth", *DEPTHS)
    growth = float(trial.suggest_categorical("growth", list(GROWTHS)))
    side_share = float(trial.suggest_categorical("side_share", list(SIDE_SHARES)))
    return space.student(net, round(width, 3), depth, growth, taught, side_share if space.can_resize else 1.0)
