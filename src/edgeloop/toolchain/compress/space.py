"""What may be tried for one source: which bodies, which finishes, and what each would weigh before it is trained.

Pure: asks nothing of the machine. Neighbours: `propose` picks from it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.toolchain.compress.plan import Body, BodyKind, CompressRecipe, Finish, Plan
from edgeloop.toolchain.nets.build import NetName
from edgeloop.toolchain.package import Bounds

BITS = {
    Precision.FLOAT32: (32, 32),
    Precision.FLOAT16: (16, 32),
    Precision.INT16: (8, 16),
    Precision.INT8: (8, 8),
    Precision.INT8_DYNAMIC: (8, 8),
    Precision.INT8_WEIGHTS: (8, 32),
    Precision.INT4: (4, 8),
    Precision.INT4_DYNAMIC: (4, 8),
    Precision.INT4_WEIGHTS: (4, 32),
}
"""Bits of (weights, activations) while a model of that precision computes."""

ALMOST_FREE_BYTES = 2_000
"""What a model file holds besides weights, at the least."""

WIDTHS = (0.125, 2.0)
DEPTHS = (1, 6)
SIDE_SHARES = (1.0, 0.75, 0.5)
KEEPS = (0.05, 0.9)
RANKS = ("l1", "l2", "activation", "zeros")

_LADDER = ((2.0, 4), (1.5, 4), (1.0, 4), (1.0, 3), (0.75, 3), (0.75, 2), (0.5, 3), (0.5, 2), (0.25, 2), (0.25, 1))
_FIRST_STUDENTS = 4
_FIRST_KEEPS = (0.5, 0.2)


@dataclass(frozen=True)
class Space:
    """The choices for one source.

    as_it_is: finishes that the source itself can be brought to. finishes: those that a trained Keras body can, the
    preferred one first. can_prune: whether the source's graph can be cut. parameters_of: weights of a student's
    body, counted without training it. nets: kinds of students that take such inputs. images_seen: the shortest
    training. longest: the longest.
    """

    as_it_is: tuple[Finish, ...]
    finishes: tuple[Finish, ...]
    can_prune: bool
    can_resize: bool
    nets: tuple[NetName, ...]
    parameters_of: Callable[[Body], int]
    images_seen: int
    longest: int
    seed: int

    @property
    def first_finish(self) -> Finish:
        """The finish that every new body is judged by."""
        return self.finishes[0]

    def first_plans(self, bounds: Bounds) -> tuple[Plan, ...]:
        """The source as it is in every finish; then students and cuts from large to small, as far as they fit."""
        plain = [Plan(body=Body(kind=BodyKind.SOURCE, seed=self.seed), finish=finish) for finish in self.as_it_is]
        cuts = [self.pruned(keep, RANKS[0]) for keep in _FIRST_KEEPS] if self.can_prune else []
        trained = [Plan(body=body, finish=self.first_finish) for body in (*self._ladder(bounds), *cuts)]
        return (*plain, *trained)

    def student(self, net: NetName, width: float, depth: int, side_share: float = 1.0) -> Body:
        """A student's body at its shortest training."""
        return Body(
            kind=BodyKind.STUDENT,
            net=net,
            width=width,
            depth=depth,
            side_share=side_share,
            images_seen=self.images_seen,
            seed=self.seed,
        )

    def pruned(self, keep: float, by: str) -> Body:
        """A cut's body at its shortest training."""
        return Body(kind=BodyKind.PRUNED, keep=keep, by=by, images_seen=self.images_seen, seed=self.seed)

    def predicted_bytes(self, plan: Plan) -> int | None:
        """The least that the plan's file can weigh: its weights alone; None where that needs surgery to know."""
        if plan.body.kind is not BodyKind.STUDENT:
            return None
        weight_bits, _ = BITS.get(plan.finish.precision, (8, 8))
        return ALMOST_FREE_BYTES + self.parameters_of(plan.body) * weight_bits // 8

    def can_fit(self, plan: Plan, bounds: Bounds) -> bool:
        """False if the plan's file is too large whatever its training brings."""
        most, least = bounds.max_size_bytes, self.predicted_bytes(plan)
        return most is None or least is None or least <= most

    def siblings(self, body: Body) -> Iterator[Plan]:
        """The other finishes of a body that is trained already: cheap to try."""
        finishes = self.as_it_is if body.kind is BodyKind.SOURCE else self.finishes
        return (Plan(body=body, finish=finish) for finish in finishes)

    def _ladder(self, bounds: Bounds) -> list[Body]:
        """For each kind of student, the largest that fits and some that are smaller."""
        chosen = []
        for net in self.nets:
            bodies = (self.student(net, width, depth) for width, depth in _LADDER)
            fitting = [body for body in bodies if self.can_fit(Plan(body=body, finish=self.first_finish), bounds)]
            count = max(1, _FIRST_STUDENTS // len(self.nets))
            chosen += fitting[:: max(1, -(-len(fitting) // count))][:count]
        return chosen


def finishes(recipe: CompressRecipe, allowed: tuple[tuple[EngineName, Precision], ...]) -> tuple[Finish, ...]:
    """The recipe's engines and precisions that are allowed, the one that shrinks and speeds most first."""
    preference = (
        Precision.INT8,
        Precision.INT8_DYNAMIC,
        Precision.INT4,
        Precision.INT4_WEIGHTS,
        Precision.INT4_DYNAMIC,
        Precision.INT8_WEIGHTS,
        Precision.INT16,
        Precision.FLOAT16,
        Precision.FLOAT32,
    )
    return tuple(
        Finish(engine=engine, precision=precision)
        for engine in recipe.engines
        for precision in preference
        if precision in recipe.precisions and (engine, precision) in allowed
    )
