"""Bad models and good ones, tried in real processes."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import psutil
import pytest
from torture.here import put_to_work_here

from bad_models import crashing, endless, vast
from builders import Damage, Parts, as_bundle, make_parts
from edgeloop.bundle.archive import Bundle
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.manifest import Budget, EngineName, Variant
from edgeloop.device.accept import Acceptance, ask_process, no_room, outcome_of
from edgeloop.device.config import Pace
from edgeloop.device.examine import Findings, Question
from edgeloop.device.exchange import Order
from edgeloop.device.slots import AtWork
from edgeloop.runtime.load import load_fastest

ENOUGH_S = 45.0
SOON_S = 3.0
SURELY_S = 1.5
"""Of computing: a small model takes a tenth of that to load."""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="what is looked at is Linux's")


def _with(model: bytes, *, engine: EngineName = EngineName.ONNXRUNTIME) -> Parts:
    """A bundle that is sound but for its model."""
    parts = make_parts().with_model(model)
    tensors = {"image": "image", "logits": "logits"}
    variant = msgspec.structs.replace(parts.manifest.variants[0], engine=engine, tensors=tensors)
    output = msgspec.structs.replace(parts.manifest.output, features=None)
    return parts.changed(variants=(variant,), output=output, reference=None)


def _stocked(parts: Parts, folder: Path) -> Shelf:
    shelf = Shelf(folder / "bundles")
    for sha256, data in parts.files.items():
        shelf.put(sha256, data)
    return shelf


def _judged(parts: Parts, folder: Path, *, race_s: float = 0.0, accept_s: float = ENOUGH_S) -> Findings:
    bundle, shelf = as_bundle(parts), _stocked(parts, folder)
    acceptance = Acceptance(Pace(folder / "races", race_s=race_s, accept_s=accept_s))
    return asyncio.run(acceptance.judge(bundle, bundle.manifest.variants[0], shelf=shelf.folder))


def _question(parts: Parts, folder: Path, *, within_s: float = ENOUGH_S) -> Question:
    return Question(
        shelf=str(_stocked(parts, folder).folder),
        variant=parts.manifest.variants[0].file,
        races=str(folder / "races"),
        threads=None,
        race_s=0.0,
        parent=os.getpid(),
        within_s=within_s,
    )


@asynccontextmanager
async def _endless(folder: Path) -> AsyncIterator[tuple[psutil.Process, "asyncio.Task[Findings]"]]:
    """A process at work on a model that never answers, and who waits for it."""
    parts = _with(endless())
    before = set(psutil.Process().children())  # servers of other tests
    task = asyncio.create_task(ask_process(_question(parts, folder), to_json(parts.manifest)))
    try:
        while not (children := set(psutil.Process().children()) - before):
            assert not task.done()
            await asyncio.sleep(0.01)
        (child,) = children
        await _when_it_computes(child)
        yield child, task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _when_it_computes(process: psutil.Process) -> None:
    """The process has read its question, and a thread of it has been computing for a while: it loops."""
    while not any(one.user_time > SURELY_S for one in process.threads() if one.id != process.pid):
        await asyncio.sleep(0.01)


# ---- a good model


def test_sound_variant_passes_with_its_figures(tmp_path: Path) -> None:
    found = _judged(make_parts(), tmp_path)
    assert (found.failure, found.is_passing) == (None, False)
    assert found.latency_p50_ms > 0
    assert found.peak_memory_bytes > 10_000_000  # a Python process with NumPy and an engine


def test_winner_of_the_race_is_what_is_loaded_afterwards(tmp_path: Path) -> None:
    parts = make_parts()
    bundle = as_bundle(parts)
    assert _judged(parts, tmp_path, race_s=0.05).failure is None
    shelf, variant = tmp_path / "bundles", bundle.manifest.variants[0]
    version = Acceptance(Pace(tmp_path / "races", race_s=0.05)).load(bundle, variant, shelf=shelf)
    try:
        raced = load_fastest(bundle, [variant], race_s=0.0, folder=tmp_path / "races")
        assert raced.race is not None
        assert (version.is_raced, version.setting) == (True, str(raced.race.winner.setting))
    finally:
        version.close()


@pytest.mark.parametrize(("accept_s", "load_s"), [(300.0, 300.0), (5.0, 30.0)])
def test_what_may_take_long_to_be_tried_may_take_long_to_load(tmp_path: Path, accept_s: float, load_s: float) -> None:
    orders: list[Order] = []

    def put_to_work(order: Order, bundle: Bundle, variant: Variant) -> AtWork:
        orders.append(order)
        return put_to_work_here(order, bundle, variant)

    parts = make_parts()
    shelf = _stocked(parts, tmp_path)
    acceptance = Acceptance(Pace(tmp_path / "races", accept_s=accept_s), put_to_work=put_to_work)
    acceptance.load(as_bundle(parts), parts.manifest.variants[0], shelf=shelf.folder).close()
    assert [order.load_s for order in orders] == [load_s]


def test_without_a_race_nothing_is_remembered(tmp_path: Path) -> None:
    _judged(make_parts(), tmp_path)
    assert not (tmp_path / "races").exists()


# ---- bad ones


@pytest.mark.parametrize(
    ("damage", "says"),
    [(Damage.WEIGHTS, "0% of labels agree"), (Damage.NAN, "NaN"), (Damage.PREPROCESS, "off by up to")],
)
def test_wrong_answers_are_a_failure_for_good(tmp_path: Path, damage: Damage, says: str) -> None:
    found = _judged(make_parts(damage=damage), tmp_path, race_s=1.0)
    assert says in str(found.failure)
    assert not found.is_passing


def test_wrong_answers_are_not_raced(tmp_path: Path) -> None:
    _judged(make_parts(damage=Damage.WEIGHTS), tmp_path, race_s=1.0)
    assert not (tmp_path / "races").exists()


def test_labels_that_the_outputs_do_not_have_are_a_failure(tmp_path: Path) -> None:
    found = _judged(make_parts().changed(labels=("a", "b", "c"), reference=None), tmp_path)
    assert ("does not run: " in str(found.failure), found.is_passing) == (True, False)


def test_crash_of_the_engine_is_a_failure_that_names_the_signal(tmp_path: Path) -> None:
    found = _judged(_with(crashing(), engine=EngineName.LITERT), tmp_path)
    assert str(found.failure).startswith("the model crashed the engine: SIGSEGV")
    assert not found.is_passing


def test_model_that_never_answers_is_stopped(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))  # servers of other tests
    found = _judged(_with(endless()), tmp_path, accept_s=SOON_S)
    assert found == Findings(failure="it was not done within 3 s here and was stopped")
    assert set(psutil.Process().children(recursive=True)) <= before


def test_model_that_needs_more_memory_than_there_is_is_a_failure(tmp_path: Path) -> None:
    assert "Failed to allocate memory" in str(_judged(_with(vast()), tmp_path).failure)


def test_model_that_is_too_slow_here_is_a_failure_with_both_figures(tmp_path: Path) -> None:
    found = _judged(make_parts().changed(budget=Budget(max_latency_p50_ms=1e-6)), tmp_path)
    assert "too slow here: median" in str(found.failure)
    assert found.latency_p50_ms > 1e-6


def test_model_that_takes_more_memory_than_its_budget_is_a_failure_with_both_figures(tmp_path: Path) -> None:
    found = _judged(make_parts().changed(budget=Budget(max_peak_memory_bytes=1_000_000)), tmp_path)
    assert found.failure == (
        f"too big here: peaks at {found.peak_memory_bytes:,} bytes of memory, the bundle's budget is 1,000,000"
    )


def test_model_within_its_budgets_passes(tmp_path: Path) -> None:
    budget = Budget(max_latency_p50_ms=60_000.0, max_peak_memory_bytes=10**10)
    assert _judged(make_parts().changed(budget=budget), tmp_path).failure is None


# ---- memory


def _needing(peak_memory_bytes: int) -> Variant:
    variant = make_parts().manifest.variants[0]
    assert variant.measured is not None
    measured = msgspec.structs.replace(variant.measured, peak_memory_bytes=peak_memory_bytes)
    return msgspec.structs.replace(variant, measured=measured)


def test_variant_that_needs_just_what_is_free_has_room() -> None:
    assert no_room(_needing(1000), available_bytes=1000) is None


def test_variant_that_needs_more_than_is_free_has_none() -> None:
    assert "it needs 1,001 bytes of memory, of which 1,000 are free here now" in str(
        no_room(_needing(1001), available_bytes=1000)
    )


def test_variant_that_nobody_measured_needs_at_least_its_size() -> None:
    variant = msgspec.structs.replace(_needing(0), measured=None, size_bytes=500)
    assert (no_room(variant, available_bytes=500), no_room(variant, available_bytes=499) is None) == (None, False)


def test_variant_without_room_is_not_tried_and_may_come_again(tmp_path: Path) -> None:
    parts = make_parts().changed(variants=(_needing(10**15),))
    found = _judged(parts, tmp_path)
    assert "1,000,000,000,000,000 bytes of memory" in str(found.failure)
    assert (found.is_passing, found.peak_memory_bytes) == (True, 0)


# ---- the process


def test_question_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    async def cancel() -> psutil.Process:
        async with _endless(tmp_path) as (process, task):
            assert process.is_running()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            return process

    assert not asyncio.run(cancel()).is_running()


def test_process_that_is_killed_from_outside_says_that_memory_may_have_run_out(tmp_path: Path) -> None:
    async def kill() -> Findings:
        async with _endless(tmp_path) as (process, task):
            process.kill()
            return await task

    found = asyncio.run(kill())
    assert "was ended by SIGKILL, as is done when memory runs out" in str(found.failure)
    assert found.is_passing


@linux_only
def test_golden_samples_are_answered_at_low_priority_which_the_timing_is_free_of(tmp_path: Path) -> None:
    async def look() -> tuple[int, int]:
        async with _endless(tmp_path) as (process, _):
            busiest = max(process.threads(), key=lambda one: one.user_time if one.id != process.pid else 0.0)
            return os.getpriority(os.PRIO_PROCESS, process.pid), os.getpriority(os.PRIO_PROCESS, busiest.id)

    here = os.getpriority(os.PRIO_PROCESS, 0)
    assert asyncio.run(look()) == (here, max(here, 10))


@linux_only
def test_process_is_the_first_to_go_when_memory_runs_out(tmp_path: Path) -> None:
    async def look() -> int:
        async with _endless(tmp_path) as (process, _):
            return int(Path(f"/proc/{process.pid}/oom_score_adj").read_text())

    assert asyncio.run(look()) == 1000


_AGENT = """
import asyncio, os, sys
from pathlib import Path
import msgspec
from edgeloop.device.accept import ask_process
from edgeloop.device.examine import Question

question = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Question)
question = msgspec.structs.replace(question, parent=os.getpid())
asyncio.run(ask_process(question, Path(sys.argv[2]).read_bytes()))
"""


@linux_only
def test_process_does_not_outlive_an_agent_that_was_killed(tmp_path: Path) -> None:
    parts = _with(endless())
    question, manifest = tmp_path / "question.json", tmp_path / "manifest.json"
    question.write_bytes(to_json(_question(parts, tmp_path, within_s=600.0)))
    manifest.write_bytes(to_json(parts.manifest))
    agent = psutil.Popen([sys.executable, "-c", _AGENT, str(question), str(manifest)])
    child = None
    try:
        while not (children := agent.children()):
            assert agent.poll() is None
        child = children[0]
        asyncio.run(asyncio.wait_for(_when_it_computes(child), 60))
        agent.kill()
        agent.wait()
        with suppress(psutil.NoSuchProcess):
            child.wait(timeout=20)
        assert not child.is_running()
    finally:
        for process in filter(None, (agent, child)):
            with suppress(psutil.NoSuchProcess):
                process.kill()


# ---- what an end means


def test_answer_counts_after_a_good_end() -> None:
    found = Findings(failure="golden samples: ...", latency_p50_ms=1.0)
    assert outcome_of(0, to_json(found), b"noise") == found


@pytest.mark.parametrize("said", [b"", b"{", b"[]", b'{"failure": 3}', b"\xff", b"{}" * 40_000])
def test_end_without_an_answer_fails_closed(said: bytes) -> None:
    found = outcome_of(0, said, b"first\nlast words\n")
    assert "gave no answer" in str(found.failure)
    assert "last words" in str(found.failure)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_from_outside_says_nothing_of_the_model(number: signal.Signals) -> None:
    """earlyoom begins with SIGTERM, and with just such a process."""
    found = outcome_of(-number, b"", b"")
    assert (number.name in str(found.failure), found.is_passing) == (True, True)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGBUS])
def test_signal_of_a_crash_is_the_models_fault(number: signal.Signals) -> None:
    found = outcome_of(-number, b"", b"")
    assert (number.name in str(found.failure), found.is_passing) == (True, False)


def test_crash_says_what_was_said_last() -> None:
    found = outcome_of(-signal.SIGABRT, b"", b"loading\nterminate called after std::bad_alloc\n\n")
    assert found.failure == "the model crashed the engine: SIGABRT; terminate called after std::bad_alloc"


def test_exit_code_that_no_model_explains_may_pass() -> None:
    found = outcome_of(1, b"", b"ModuleNotFoundError: No module named 'numpy'\n")
    assert found == Findings(
        failure="its process ended with exit code 1: ModuleNotFoundError: No module named 'numpy'", is_passing=True
    )
