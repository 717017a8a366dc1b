"""What may be tried for one source: which bodies, which finishes, and what each would weigh before it is trained.

Pure: asks nothing of the machine. Neighbours: `propose` picks from it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.toolchain.compress.plan import Body, BodyKind, CompressRecipe, Finish, Plan, Taught
from edgeloop.toolchain.nets.name import GROWING, NetName
from edgeloop.toolchain.package import Bounds
from edgeloop.toolchain.prune.measures import Of
from edgeloop.toolchain.quantize.recipe import Granularity

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

_FILE_BYTES, _LAYER_BYTES, _CHANNEL_BYTES, _BIAS_BYTES = 1_200, 220, 16, 4
"""What a model file holds besides weights, at the least: for itself, for each layer that has weights, and for each of
its channels, with their scales and biases, or biases alone. Measured on stripped int8 LiteRT files of students."""


@dataclass(frozen=True)
class Weight:
    """What a network weighs before it is trained. layers: those with weights; channels: of all these, put out."""

    parameters: int
    layers: int
    channels: int

    def bytes_at(self, finish: "Finish", share: float = 1.0) -> int:
        """The least that its file weighs with this share of the parameters."""
        # Parameters lie between two axes of channels: a share of them leaves about its root of the channels.
        channels = math.sqrt(share) * self.channels
        each = _CHANNEL_BYTES if finish.granularity is Granularity.CHANNEL else _BIAS_BYTES
        besides = _FILE_BYTES + _LAYER_BYTES * self.layers + int(each * channels)
        return besides + int(share * self.parameters) * _weight_bits(finish) // 8

    def share_within(self, size_bytes: int, finish: "Finish") -> float:
        """The share of the parameters that a file of this size has room for; 0 where it has none."""
        shares = [thousandth / 1000 for thousandth in range(1, 1001)]
        return max((share for share in shares if self.bytes_at(finish, share) <= size_bytes), default=0.0)


WIDTHS = (0.125, 2.0)
DEPTHS = (2, 6)
GROWTHS = (1.25, 1.5, 2.0)
SIDE_SHARES = (1.0, 0.75, 0.5)
KEEPS = (0.02, 0.9)
SHARES_OF = (Of.MACS, Of.PARAMETERS)
RANKS = ("l1", "l2", "activation", "zeros")
TEACHINGS = tuple(Taught)

_MIXING_ENGINE = EngineName.LITERT
_SCALES_BY_TENSOR = (EngineName.LITERT, EngineName.ONNXRUNTIME)
_MORE_BITS = {Precision.INT8: (Precision.FLOAT32, 0.998), Precision.INT4: (Precision.INT8, 0.99)}
"""What the layers that suffer most get instead, and which share of samples is to keep the body's answer then."""

_LADDER_WIDTHS = (2.0, 1.5, 1.0, 0.75, 0.5, 0.375, 0.25, 0.125)
_FAR_BELOW = 0.5
_ROOM_USED = 0.96  # what a cut leaves is not known to the byte
_LADDER_DEPTH = 4
_LADDER_GROWTH = 1.5
_FIRST_STUDENTS = 4
_FIRST_KEEPS = (0.5, 0.2)


@dataclass(frozen=True)
class Space:
    """The choices for one source.

    as_it_is: finishes that the source itself can be brought to. finishes: those that a trained Keras body can, the
    preferred one first. can_prune: whether the source's graph can be cut. can_resize: whether inputs are images.
    nets: kinds of students that take such inputs. source_weight: of a source that can be cut. weight_of: of a
    student's body, told without training it. images_seen: the shortest training; longest: the longest.
    device_bytes: what the device can store and hold at most. can_mix: whether it runs layers of different precisions.
    """

    as_it_is: tuple[Finish, ...]
    finishes: tuple[Finish, ...]
    can_prune: bool
    can_resize: bool
    nets: tuple[NetName, ...]
    source_weight: Weight
    weight_of: Callable[[Body], Weight]
    images_seen: int
    longest: int
    seed: int
    device_bytes: int | None = None
    can_mix: bool = True

    @property
    def first_finish(self) -> Finish:
        """The finish that every new body is judged by."""
        return self.finishes[0]

    def first_plans(self, bounds: Bounds) -> tuple[Plan, ...]:
        """The source as it is in every finish; then students and cuts: under a bound on size the largest that fit,
        taught in both ways, else from large to small."""
        plain = [Plan(body=Body(kind=BodyKind.SOURCE, seed=self.seed), finish=finish) for finish in self.as_it_is]
        cuts = self._cuts(bounds) if self.can_prune else []
        trained = [Plan(body=body, finish=self.first_finish) for body in (*self._ladder(bounds), *cuts)]
        return (*plain, *trained)

    def student(
        self, net: NetName, width: float, depth: int, growth: float, taught: Taught, side_share: float = 1.0
    ) -> Body:
        """A student's body at its shortest training."""
        return Body(
            kind=BodyKind.STUDENT,
            net=net,
            width=width,
            depth=depth,
            growth=growth if net in GROWING else Body(kind=BodyKind.STUDENT).growth,
            side_share=side_share,
            taught=taught,
            stages=(self.images_seen,),
            seed=self.seed,
        )

    def pruned(self, keep: float, of: Of, by: str, taught: Taught) -> Body:
        """A cut's body at its shortest training."""
        return Body(
            kind=BodyKind.PRUNED,
            keep=keep,
            of=of,
            by=by,
            taught=taught,
            stages=(self.images_seen,),
            seed=self.seed,
        )

    def predicted_bytes(self, plan: Plan) -> int | None:
        """The least that the plan's file can weigh; None where only surgery could tell."""
        body = plan.body
        if body.kind is BodyKind.STUDENT:
            return self.weight_of(body).bytes_at(plan.finish)
        if body.kind is BodyKind.PRUNED and body.of is Of.PARAMETERS:
            return self.source_weight.bytes_at(plan.finish, body.keep)
        return None

    def can_fit(self, plan: Plan, bounds: Bounds) -> bool:
        """False if the plan's file is too large whatever its training brings."""
        most, least = self.most_bytes(bounds), self.predicted_bytes(plan)
        return most is None or least is None or least <= most

    def is_far_below(self, plan: Plan, bounds: Bounds) -> bool:
        """Whether the plan's file would take less than half of the bytes that it may have."""
        most, least = self.most_bytes(bounds), self.predicted_bytes(plan)
        return most is not None and least is not None and least < _FAR_BELOW * most

    def most_bytes(self, bounds: Bounds) -> int | None:
        """What a file may weigh at most, by the bounds and the device; None where neither says."""
        return min((size for size in (bounds.max_size_bytes, self.device_bytes) if size is not None), default=None)

    def finishes_of(self, body: Body) -> tuple[Finish, ...]:
        """What a body can be brought to, that which it is judged by first."""
        return self.as_it_is if body.kind is BodyKind.SOURCE else self.finishes

    def siblings(self, body: Body) -> Iterator[Plan]:
        """A body that is trained already in every finish: cheap to try."""
        return (Plan(body=body, finish=finish) for finish in self.finishes_of(body))

    def can_teach(self, body: Body) -> bool:
        """Whether the body is a network in Keras, which can be trained and evened out; of sources not all are."""
        return body.kind is not BodyKind.SOURCE or self.can_prune

    def mixes(self, body: Body) -> Iterator[Plan]:
        """A body with more bits in the layers that suffer most: 8 where the rest has 4, float where it has 8; cheap
        to try. None on an engine whose layers do not mix, or a device that does not."""
        finishes = self.finishes_of(body)
        for finish in finishes:
            more = _MORE_BITS.get(finish.precision)
            if self.can_mix and more and finish.engine is _MIXING_ENGINE and Finish(precision=more[0]) in finishes:
                yield Plan(body=body, finish=msgspec.structs.replace(finish, mixed_agreement=more[1]))

    def lighter(self, plan: Plan) -> list[Plan]:
        """The plan's body in finishes whose files are smaller: 4 bits in the layers that bear it, or one scale for
        each tensor instead of each channel."""
        bits = BITS[plan.finish.precision]
        found = [one for one in self.mixes(plan.body) if BITS[one.finish.precision] < bits]
        if plan.finish.precision is Precision.INT8 and plan.finish.engine in _SCALES_BY_TENSOR:
            by_tensor = msgspec.structs.replace(plan.finish, granularity=Granularity.TENSOR)
            found.append(Plan(body=plan.body, finish=by_tensor))
        return found

    def least_bytes(self) -> int:
        """What the smallest of all students weighs at the least, in the finish that bodies are judged by."""
        smallest = (self.student(net, WIDTHS[0], DEPTHS[0], GROWTHS[0], TEACHINGS[0]) for net in self.nets)
        return min(self.weight_of(body).bytes_at(self.first_finish) for body in smallest)

    def _ladder(self, bounds: Bounds) -> list[Body]:
        """For each kind of student the largest that fits, and smaller ones; where a size is asked for only the
        largest. They learn in one way and the other by turns."""
        chosen = []
        for net in self.nets:
            bodies = (
                self.student(net, width, _LADDER_DEPTH, _LADDER_GROWTH, Taught.SOURCE) for width in _LADDER_WIDTHS
            )
            fitting = [body for body in bodies if self.can_fit(Plan(body=body, finish=self.first_finish), bounds)]
            count = max(1, _FIRST_STUDENTS // len(self.nets))
            if bounds.max_size_bytes is not None:
                fitting = fitting[:1] * count
            some = fitting[:: max(1, -(-len(fitting) // count))][:count]
            chosen += [_taught(body, TEACHINGS[place % len(TEACHINGS)]) for place, body in enumerate(some)]
        return list(dict.fromkeys(chosen))

    def _cuts(self, bounds: Bounds) -> list[Body]:
        """Two cuts of the source: to the parameters that fit, taught in both ways; without a bound on size, of its
        work."""
        most = bounds.max_size_bytes
        if most is None:
            return [self.pruned(keep, Of.MACS, RANKS[0], Taught.SOURCE) for keep in _FIRST_KEEPS]
        keep = min(KEEPS[1], _ROOM_USED * self.source_weight.share_within(most, self.first_finish))
        if keep < KEEPS[0]:
            return []
        return [self.pruned(round(keep, 4), Of.PARAMETERS, RANKS[0], taught) for taught in TEACHINGS]


def _taught(body: Body, taught: Taught) -> Body:
    return msgspec.structs.replace(body, taught=taught)


def _weight_bits(finish: Finish) -> int:
    return BITS.get(finish.precision, (8, 8))[0]


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
