"""What a trial does, as data: a body (which network, how trained), then a finish (which engine, which numbers).

A plan and a seed decide a trial's model; nothing about time or the machine is in it. Neighbours: `space` says which
plans are allowed, `propose` chooses the next ones, `workbench` carries one out.
"""

from enum import StrEnum

import msgspec

from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.toolchain.nets.name import NetName
from edgeloop.toolchain.package import Bounds
from edgeloop.toolchain.prune.measures import Of
from edgeloop.toolchain.quantize.recipe import Calibration, Granularity


class BodyKind(StrEnum):
    """Where a trial's network comes from."""

    SOURCE = "source"  # the person's model as it is
    PRUNED = "pruned"  # the person's model with channels cut away, fine-tuned
    STUDENT = "student"  # a slim network that learns from the person's model


class Taught(StrEnum):
    """What a body learns from. Which is better depends on the source: one that knows more than the labels teaches
    more, and one that is unsure of varied samples teaches that, too."""

    SOURCE = "source"  # the source's answers to samples and to varied copies, asked once, beside the labels
    LABELS = "labels"  # the labels alone, each sample varied anew whenever it is shown


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network and its training; fields of other kinds stay at their defaults.

    keep: share of `of` left by pruning: multiply-adds or parameters. by: how channels are ranked. net: a student's
    kind, see nets.build. width: factor on its channels. depth: its blocks. growth: of channels where sides halve.
    side_share: its input's side against the source's. stages: training images shown in each stage; a stage goes on
    from the one before, and its learning rate falls from the start anew (Loshchilov and Hutter 2017, arXiv
    1608.03983), so that a body is of use after each.
    """

    kind: BodyKind
    keep: float = 1.0
    of: Of = Of.MACS
    by: str = "l1"
    net: NetName = NetName.SLIM
    width: float = 1.0
    depth: int = 0
    growth: float = 2.0
    side_share: float = 1.0
    taught: Taught = Taught.SOURCE
    stages: tuple[int, ...] = ()
    seed: int = 0

    @property
    def images_seen(self) -> int:
        """Training images shown in all."""
        return sum(self.stages)

    def like(self, other: "Body") -> bool:
        """Whether both are the same network, however long each was trained."""
        return self.untrained == other.untrained

    @property
    def untrained(self) -> "Body":
        """The same network before its first stage."""
        return msgspec.structs.replace(self, stages=())

    @property
    def before(self) -> "Body | None":
        """The same network one stage earlier; None where it has trained for one or none."""
        return msgspec.structs.replace(self, stages=self.stages[:-1]) if len(self.stages) > 1 else None

    def for_longer(self, images_seen: int) -> "Body":
        """The same network after one more stage, which brings it to so many images in all."""
        return msgspec.structs.replace(self, stages=(*self.stages, images_seen - self.images_seen))


class Finish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of a trained network. aware_images: images of quantization-aware training, 0 for none. equalize,
    correct_bias, granularity: as in QuantizeRecipe. mixed_agreement: the layers that suffer most get more bits until
    this share of samples keeps the body's answer, as in MixedRecipe; 0 for the same bits in all layers."""

    engine: EngineName = EngineName.LITERT
    precision: Precision = Precision.INT8
    calibration: Calibration = Calibration.MIN_MAX
    aware_images: int = 0
    equalize: bool = False
    correct_bias: bool = False
    mixed_agreement: float = 0.0
    granularity: Granularity = Granularity.CHANNEL

    @property
    def is_integer(self) -> bool:
        """Whether activations are integers too, so that calibration and awareness have a meaning."""
        return self.precision in (Precision.INT8, Precision.INT4, Precision.INT16)


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One trial."""

    body: Body
    finish: Finish

    @property
    def title(self) -> str:
        """A few words for tables."""
        body = self.body
        what = {
            BodyKind.SOURCE: "as it is",
            BodyKind.PRUNED: f"pruned to {100 * body.keep:.3g}% of its {body.of} by {body.by}",
            BodyKind.STUDENT: f"{body.net} student, width {body.width:g}, depth {body.depth}"
            + (f", growth {body.growth:g}" if body.growth != 2 else "")
            + (f", side {body.side_share:g}" if body.side_share < 1 else ""),
        }[body.kind]
        if body.kind is not BodyKind.SOURCE and body.taught is Taught.LABELS:
            what += ", by labels"
        finish = self.finish
        cures = {
            f", {finish.calibration} calibration": finish.calibration is not Calibration.MIN_MAX,
            ", quantization-aware": finish.aware_images > 0,
            ", equalised": finish.equalize,
            ", bias corrected": finish.correct_bias,
            ", mixed": finish.mixed_agreement > 0,
            ", one scale a tensor": finish.granularity is Granularity.TENSOR,
        }
        return f"{what}; {finish.engine} {finish.precision}" + "".join(cure for cure, is_so in cures.items() if is_so)


class CompressRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """What to search for, and how long.

    trials: ends the search after so many, which makes it the same on every machine; budget_s ends it wherever it is
    then. One of the two may be None. images_seen: what the shortest training shows; 0 takes what suits the budget.
    engines: what candidates may run on. precisions: what they may compute in.
    """

    bounds: Bounds
    profile: str = "this"
    budget_s: float | None = 600.0
    trials: int | None = None
    images_seen: int = 0
    seed: int = 0
    engines: tuple[EngineName, ...] = (EngineName.LITERT,)
    precisions: tuple[Precision, ...] = (Precision.FLOAT32, Precision.FLOAT16, Precision.INT8, Precision.INT8_WEIGHTS)

    def require_sound(self) -> None:
        """Raise InvalidInput where a field cannot be."""
        if self.budget_s is None and self.trials is None:
            raise InvalidInput("the search has neither a budget nor a number of trials; it would never end")
        if self.budget_s is not None and self.budget_s <= 0:
            raise InvalidInput(f"the budget is {self.budget_s:g} s; give the search some time, such as 10min")
        if self.trials is not None and self.trials < 1:
            raise InvalidInput(f"trials is {self.trials}; at least one is needed")
        if not self.engines or not self.precisions:
            raise InvalidInput("the search needs at least one engine and one precision to try")


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a plan, by what the seed decides.

    lost_points: of accuracy against the source on the judging part. body_lost_points: the same before the finish,
    so that what training and what quantization cost can be told apart.
    multiply_adds: of one inference, None where they cannot be counted. bit_operations: multiply-adds times the bits
    of weights and of activations (Baskin et al. 2018, arXiv 1804.10969): the search's stand-in for time.
    failure: why there is no model, in a sentence; figures are then 0.
    seconds: what the trial took; for people and for planning, it decides nothing that is recorded of models.
    """

    plan: Plan
    lost_points: float = 0.0
    body_lost_points: float = 0.0
    accuracy: float = 0.0
    agreement: float = 0.0
    size_bytes: int = 0
    multiply_adds: int | None = None
    bit_operations: int = 0
    variant: str = ""
    body: str = ""
    seconds: float = 0.0
    failure: str | None = None
