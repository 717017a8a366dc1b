"""A search under bounds beside the peers: what MNIST and Fashion-MNIST have in common.

Peers come first, then our search as a command; then all are judged on the same test images and timed in one run. The
candidate that stands for us is picked by the search's own figures, never by the test images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import ours
from benchmarks.contender import Contender, standings
from benchmarks.context import Context
from benchmarks.data import Images
from benchmarks.peers.front import Floats, Missing, peers
from benchmarks.rows import Row, Standing, alone, at_most, beside, not_run, ratio_at_most
from edgeloop.toolchain.source.model import Format
from edgeloop.toolchain.source.open import open_model

FLOAT = "float LiteRT"
OURS = "edgeloop"


@dataclass(frozen=True)
class Bounds:
    """What ours must keep to. size_share, latency_share: of the float LiteRT model's; size_bytes: where absolute."""

    max_drop: float
    size_bytes: int | None = None
    size_share: float | None = None
    latency_share: float | None = None

    def most_bytes(self, float_bytes: int) -> int:
        """The bytes that ours may have."""
        if self.size_bytes is not None:
            return self.size_bytes
        assert self.size_share is not None
        return int(float_bytes * self.size_share)


def rows(name: str, images: Images, model: Path, bounds: Bounds, context: Context) -> Iterator[Row]:
    """All rows of such a work; model: the trained float .keras file."""
    floats = Floats.of(open_model(model))
    contenders = {FLOAT: Contender(FLOAT, Format.LITERT, floats.litert)}
    missing: list[Missing] = []
    for made in peers(floats, images):
        context.tell(f"{name}: {made.name} {'is absent' if isinstance(made, Missing) else 'is done'}")
        if isinstance(made, Missing):
            missing.append(made)
        else:
            contenders[made.name] = made
    yield from (not_run(name, "run", one.name, one.reason) for one in missing)
    context.tell(f"{name}: edgeloop compress for {context.budget_min:g} minutes")
    search = ours.compress(
        model,
        images.folder,
        context.scratch / name,
        max_drop=bounds.max_drop,
        max_size_bytes=bounds.most_bytes(len(floats.litert)),
        budget_min=context.budget_min,
    )
    yield at_most(name, "search_min", "", ours=search.took_min, theirs=None, bound=context.budget_min)
    candidate = ours.chosen(search, latency_share=bounds.latency_share)
    if candidate is not None:
        contenders[OURS] = ours.opened(search, candidate)
    context.tell(f"{name}: judging {len(contenders)} models on {len(images.judge_labels):,} images")
    stand = standings(contenders, images.judge_inputs, images.judge_labels)
    if candidate is None:
        yield _none_written(name, search)
        yield from (row for peer, theirs in stand.items() for row in alone(name, peer, theirs))
        return
    mine = stand.pop(OURS)
    yield from _bound_rows(name, bounds, mine, stand[FLOAT], candidate.title)
    for peer, theirs in stand.items():
        yield from beside(name, peer, mine, theirs)


def _bound_rows(name: str, bounds: Bounds, mine: Standing, plain: Standing, title: str) -> Iterator[Row]:
    most = bounds.most_bytes(plain.size_bytes)
    yield at_most(name, "size_bytes", FLOAT, ours=mine.size_bytes, theirs=plain.size_bytes, bound=most, note=title)
    lost = 100 * (plain.accuracy - mine.accuracy)
    note = f"{100 * plain.accuracy:.2f} % right before, {100 * mine.accuracy:.2f} % after"
    yield at_most(name, "points_lost", FLOAT, ours=lost, theirs=0.0, bound=bounds.max_drop, note=note)
    if bounds.latency_share is not None:
        yield ratio_at_most(
            name, "latency_ms", FLOAT, ours=mine.latency_ms, theirs=plain.latency_ms, bound=bounds.latency_share
        )


def _none_written(name: str, search: ours.Search) -> Row:
    near = "; ".join(f"{one.title}: {', '.join(one.misses)}" for one in search.report.candidates[:2])
    note = f"the nearest: {near}" if near else f"{search.report.trials} trials were done in the time"
    return Row(work=name, figure="bundles", peer="", ours=0, target=1, met=False, note=note[:400])
