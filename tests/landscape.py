"""A crew for tests of the search itself: what a plan gives is a smooth function of it, so no network is trained."""

import math
from collections.abc import Iterator, Sequence

from edgeloop.contracts.codec import to_json
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.toolchain.compress.plan import Body, BodyKind, CompressRecipe, Outcome, Plan
from edgeloop.toolchain.compress.space import BITS, Space, Weight, finishes
from edgeloop.toolchain.compress.workbench import Task, Tried
from edgeloop.toolchain.nets.name import NetName
from edgeloop.toolchain.package import Bounds

SHORT, LONG = 1_000, 40_000
TIGHT = Bounds(max_drop_points=0.3, max_size_bytes=16 * 1024)
_ALLOWED = tuple((EngineName.LITERT, precision) for precision in Precision)


def weight(body: Body) -> Weight:
    return Weight(parameters(body), body.depth + 2, 16 * body.depth)


def parameters(body: Body) -> int:
    return int(600 + (body.width * 32) ** 2 * body.depth * 1.5 + 640 * body.width)


def recipe_of(bounds: Bounds = TIGHT, *, seed: int = 3, trials: int | None = 40) -> CompressRecipe:
    return CompressRecipe(bounds=bounds, trials=trials, seed=seed, images_seen=SHORT)


def space_of(recipe: CompressRecipe, *, can_prune: bool = True, can_resize: bool = True) -> Space:
    found = finishes(recipe, _ALLOWED)
    return Space(
        as_it_is=found, finishes=found, can_prune=can_prune, can_resize=can_resize,
        nets=(NetName.PLAIN, NetName.SLIM), source_weight=Weight(225_000, 4, 234),
        weight_of=weight, images_seen=SHORT, longest=LONG, seed=recipe.seed,
    )  # fmt: skip


def judge(plan: Plan) -> Outcome:
    """Larger and longer trained is better, less steeply each time."""
    body, (weight_bits, bits) = plan.body, BITS[plan.finish.precision]
    count, lost = 225_000, 0.0
    if body.kind is BodyKind.PRUNED:
        count = int(225_000 * body.keep)
        lost = 0.1 + 0.02 / body.keep * (SHORT / body.images_seen) ** 0.4
    if body.kind is BodyKind.STUDENT:
        count = parameters(body)
        lost = 0.05 + 900 / count + 1.2 * (SHORT / body.images_seen) ** 0.6 / math.sqrt(count / 4000)
    return Outcome(
        plan=plan, lost_points=lost, body_lost_points=lost, size_bytes=3000 + count * weight_bits // 8,
        multiply_adds=count * 18, bit_operations=count * 18 * weight_bits * bits, seconds=1.0,
    )  # fmt: skip


class LandscapeCrew:
    """A Crew that answers at once, in the order `order` makes of each generation; may fall after some answers."""

    def __init__(self, *, backwards: bool = False, falls_after: int | None = None) -> None:
        self.size = 4
        self.asked: list[Task] = []
        self._backwards = backwards
        self._left = falls_after

    def run(self, tasks: Sequence[Task], *, deadline: float) -> Iterator[tuple[int, Tried]]:
        """See Crew.run."""
        numbered = list(enumerate(tasks))
        for index, task in reversed(numbered) if self._backwards else numbered:
            if self._left == 0:
                raise KeyboardInterrupt
            if self._left is not None:
                self._left -= 1
            self.asked.append(task)
            body = None if task.plan.body.kind is BodyKind.SOURCE else to_json(task.plan.body)
            yield index, Tried(judge(task.plan), body, b"variant of " + task.plan.title.encode())

    def close(self) -> None:
        """Nothing to end."""
