"""One sitting of a search: generation after generation within the budget, each trial on the disk when it is done.

`propose` decides, `crew` does; what lies in the folder is enough to go on from, whatever ended the last sitting.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edgeloop.toolchain.compress.crew import Crew
from edgeloop.toolchain.compress.plan import Body, CompressRecipe, Outcome, Plan
from edgeloop.toolchain.compress.propose import propose, violations
from edgeloop.toolchain.compress.records import Generation, Records, Search, Trial
from edgeloop.toolchain.compress.space import Space
from edgeloop.toolchain.compress.workbench import Task, Tried
from edgeloop.toolchain.progress import Progress

_FINAL_SHARE, _LEAST_FINAL_S, _MOST_FINAL_S = 0.15, 15.0, 90.0
_SAFE = 0.85  # machines have slower minutes, and a stage that is not done in time is lost
_LEAST_TRAINING_SHARE = 0.2


@dataclass
class Clock:
    """What of the budget is spent. budget_s: None for no end. before_s: by the trials of earlier sittings."""

    budget_s: float | None
    before_s: float
    started: float

    @property
    def spent_s(self) -> float:
        """So far."""
        return self.before_s + time.monotonic() - self.started

    @property
    def search_s(self) -> float:
        """Of the budget, for trials; the rest is for measuring the best of them."""
        if self.budget_s is None:
            return math.inf
        return self.budget_s - self.final_s

    @property
    def final_s(self) -> float:
        """Of the budget, for measuring the best; also of a search that is only measured again."""
        if self.budget_s is None:
            return math.inf
        return min(_MOST_FINAL_S, max(_LEAST_FINAL_S, _FINAL_SHARE * self.budget_s))

    @property
    def left_s(self) -> float:
        """For trials."""
        return self.search_s - self.spent_s


class SearchRun:
    """One sitting of a search: from what lies in the folder to its end, or until the budget is spent."""

    def __init__(self, records: Records, search: Search, space: Space, clock: Clock, progress: Progress) -> None:
        self._records = records
        self._recipe: CompressRecipe = search.recipe
        self._space = space
        self._clock = clock
        self._progress = progress
        self._trials = {trial.number: trial for trial in records.trials()}

    @property
    def outcomes(self) -> list[Outcome]:
        """Of all trials that are done, in order."""
        return list(self.numbered.values())

    @property
    def numbered(self) -> dict[int, Outcome]:
        """The same by number; a trial that was given up has none."""
        return {number: self._trials[number].outcome for number in sorted(self._trials)}

    def run(self, crew: Crew) -> None:
        """Try generation after generation until budget, trials or ideas run out."""
        generations = self._records.generations()
        index = 0
        while not self.is_over():
            if index == len(generations):
                generation = self._next(generations, crew.size)
                if generation is None:
                    return
                self._records.write_generation(index, generation)
                generations.append(generation)
            self._try(generations[index], crew)
            index += 1

    def is_over(self) -> bool:
        """Whether budget or trials are spent."""
        most = self._recipe.trials
        return self._clock.left_s <= 0 or (most is not None and len(self._trials) >= most)

    def _next(self, generations: Sequence[Generation], workers: int) -> Generation | None:
        recipe, outcomes = self._recipe, self.outcomes
        share = self._clock.spent_s / self._clock.search_s
        if recipe.trials is not None:
            share = len(outcomes) / recipe.trials
        plans = propose(recipe, self._space, outcomes, share_done=share, images_left=self._images_left, workers=workers)
        first = sum(len(generation.plans) for generation in generations)
        return Generation(first=first, plans=plans) if plans else None

    def _images_left(self, body: Body) -> int:
        """Images that a body can be shown in the time left, at its own pace so far, else at the slowest."""
        if self._recipe.trials is not None:
            # Neither the clock nor the machine has a say where the number of trials ends the search.
            return self._space.longest
        made = [outcome for outcome in self.outcomes if not outcome.failure]
        # What a trial takes besides training: that of the source, which is not trained.
        besides_s = min((o.seconds for o in made if not o.plan.body.stages), default=0.0)
        paces: dict[Body, float] = {}
        for one in made:
            # Other finishes of a body did not train it, and mixing takes a while of its own.
            if one.plan.body.stages and one.plan.finish == self._space.first_finish:
                pace = max(one.seconds - besides_s, _LEAST_TRAINING_SHARE * one.seconds) / one.plan.body.stages[-1]
                paces[one.plan.body] = max(pace, paces.get(one.plan.body, 0.0))
        own = [like for like in paces if like.like(body)]
        if not paces:
            return self._space.longest
        slowest = paces[max(own, key=lambda like: like.images_seen)] if own else max(paces.values())
        return min(self._space.longest, int(_SAFE * max(0.0, self._clock.left_s - besides_s) / slowest))

    def _try(self, generation: Generation, crew: Crew) -> None:
        bodies = {outcome.plan.body: outcome.body for outcome in self.outcomes if outcome.body}
        numbered = list(enumerate(generation.plans, start=generation.first))
        waiting = [(number, plan) for number, plan in numbered if number not in self._trials]
        if self._recipe.trials is not None:
            waiting = waiting[: self._recipe.trials - len(self._trials)]
        tasks = [self._task(plan, bodies) for _, plan in waiting]
        deadline = time.monotonic() + max(0.0, self._clock.left_s)
        for index, tried in crew.run(tasks, deadline=deadline):
            self._keep(waiting[index][0], tried)

    def _task(self, plan: Plan, bodies: dict[Body, str]) -> Task:
        known, before = bodies.get(plan.body), bodies.get(plan.body.before) if plan.body.before else None
        if known:
            return Task(plan, self._records.read(known))
        return Task(plan, before=self._records.read(before) if before else None)

    def _keep(self, number: int, tried: Tried) -> None:
        outcome = msgspec.structs.replace(
            tried.outcome,
            body=self._records.put(tried.body) if tried.body else "",
            variant=self._records.put(tried.variant) if tried.variant else "",
        )
        trial = Trial(number=number, outcome=outcome, spent_s=round(self._clock.spent_s, 1))
        self._records.write_trial(trial)
        self._trials[number] = trial
        self._tell()

    def _tell(self) -> None:
        share = min(1.0, max(0.0, self._clock.spent_s / self._clock.search_s))
        most = self._recipe.trials
        if most is not None:
            share = max(share, len(self._trials) / most)
        left = f", {max(0.0, self._clock.left_s):.0f} s left" if self._clock.budget_s is not None else ""
        self._progress(share, f"trial {len(self._trials)}{left}; {best_so_far(self.outcomes, self._recipe)}")


def best_so_far(outcomes: Sequence[Outcome], recipe: CompressRecipe) -> str:
    """The smallest that meets the bounds, or the nearest to them, in a few words."""
    made = [outcome for outcome in outcomes if not outcome.failure]
    if not made:
        return "nothing yet"
    within = [outcome for outcome in made if max(violations(outcome, recipe.bounds)) <= 0]
    if within:
        best = min(within, key=lambda outcome: outcome.size_bytes)
        return f"best {best.size_bytes:,} B at {best.lost_points:+.2f} points lost"
    nearest = min(made, key=lambda outcome: sum(max(0.0, beyond) for beyond in violations(outcome, recipe.bounds)))
    return f"nearest {nearest.size_bytes:,} B at {nearest.lost_points:+.2f} points lost"
