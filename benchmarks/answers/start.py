"""A fresh process to its first answer, beside the loop by hand; and what an agent holds in memory."""

import shutil
from collections.abc import Iterator

import edgeloop
from benchmarks import bundles, first_answer, memory
from benchmarks.context import Context, Work
from benchmarks.hand.cases import as_png, digit_images
from benchmarks.rows import Row, at_most, ratio_at_most

START, MEMORY = "first answer", "memory"

_SLOWEST = 1.5
_ROUNDS = 15
_MB = 1_000_000
_IDLE_MB, _LOADED_MB, _GREENGRASS_MB = 60.0, 90.0, 96.0


def _start(context: Context) -> Iterator[Row]:
    bundle, model = bundles.digits(context)
    image = bundle.with_name("digit.png")
    image.write_bytes(as_png(digit_images(context.assets, 1)[0][0]))
    edgeloop.load(bundle).close()  # the race is remembered from here on
    ways = {"ours": first_answer.ours(bundle, image), "theirs": first_answer.by_hand(model, image)}
    found = first_answer.first_answers(ways, rounds=_ROUNDS)
    ours, theirs = found["ours"], found["theirs"]
    yield ratio_at_most(
        START, "import, load and first answer, ms", "hand loop", ours=ours.inside_ms, theirs=theirs.inside_ms,
        bound=_SLOWEST, note=f"with Python's own start: {ours.waited_ms:.0f} and {theirs.waited_ms:.0f} ms",
    )  # fmt: skip


def _memory(context: Context) -> Iterator[Row]:
    """Idle it is one process; at work two, the agent and the one that answers: what they have in common counts once."""
    bundle, _ = bundles.digits(context)
    for what, most_mb, measured in (
        ("idle agent", _IDLE_MB, memory.idle_agent),
        ("agent that has just taken digits", _LOADED_MB, lambda folder: memory.agent_with(bundle, folder)),
    ):
        folder = context.scratch / "memory" / what.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        held = measured(folder)
        yield at_most(
            MEMORY, f"{what}, MB", "Greengrass nucleus (published)", ours=held.held_bytes / _MB, theirs=_GREENGRASS_MB,
            bound=most_mb, note=f"{held.processes} processes; each page once; resident {held.rss_bytes / _MB:.0f} MB, "
            f"proportional {held.pss_bytes / _MB:.0f} MB",
        )  # fmt: skip


START_WORK = Work(START, "a fresh process to its first answer, the race remembered", _start)
MEMORY_WORK = Work(MEMORY, "a device's agent, idle and with a model", _memory)
