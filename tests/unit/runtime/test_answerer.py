import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import msgspec
import pytest

from builders import LABELS, Parts, make_parts, quadrant_images
from edgeloop.bundle.archive import digest, entries
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import Corrupt, NotFound, Unavailable
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.contracts.messages import InferReply, InferRequest
from edgeloop.contracts.names import BundleRef, version_key
from edgeloop.runtime.answerer import Answerer
from edgeloop.runtime.input.images import encode_png

pytestmark = pytest.mark.anyio

FOUR_AND_MORE = tuple(f"1.0.{index}" for index in range(7))


class ShelfOfModels:
    """Implements answerer.Models over bundles in parts; counts, waits and fails on demand."""

    def __init__(self) -> None:
        self.parts: dict[BundleRef, Parts] = {}
        self.read: Counter[str] = Counter()
        self.go = asyncio.Event()
        self.go.set()
        self.failure: Exception | None = None

    def put(self, parts: Parts) -> None:
        """Have a bundle."""
        self.parts[parts.manifest.ref] = parts

    async def find(self, name: str, version: str | None) -> BundleRef:
        """See Models.find."""
        found = [ref for ref in self.parts if ref.name == name and version in (None, ref.version)]
        if not found:
            raise NotFound(f"no {name} {version}")
        return max(found, key=lambda ref: version_key(ref.version))

    async def manifest(self, ref: BundleRef) -> bytes:
        """See Models.manifest."""
        self.read[str(ref)] += 1
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        return to_json(self.parts[ref].manifest)

    async def file(self, sha256: str) -> bytes:
        """See Models.file."""
        self.read[sha256] += 1
        return next(parts.files[sha256] for parts in self.parts.values() if sha256 in parts.files)


class Watch:
    """A clock that a test moves."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def models() -> ShelfOfModels:
    made = ShelfOfModels()
    made.put(make_parts())
    return made


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
async def answerer(models: ShelfOfModels, watch: Watch) -> AsyncIterator[Answerer]:
    made = Answerer(models, clock=watch)
    yield made
    models.go.set()
    await made.close()


async def _ask(
    answerer: Answerer, version: str | None = None, index: int = 0, *, deadline_ms: int = 30_000
) -> InferReply:
    request = InferRequest(name="tiny", version=version, data=_picture(index), deadline_ms=deadline_ms)
    return await answerer.infer(request)


def _picture(index: int) -> bytes:
    return encode_png(quadrant_images(index + 1)[index])


async def test_answer_is_the_models(answerer: Answerer) -> None:
    replies = [await _ask(answerer, index=index) for index in range(4)]
    assert [reply.prediction.label for reply in replies] == list(LABELS)


async def test_newest_version_answers_from_the_moment_it_is_there(models: ShelfOfModels, answerer: Answerer) -> None:
    before = await _ask(answerer)
    models.put(make_parts(version="1.1.0"))
    after = await _ask(answerer)
    assert (before.prediction.bundle, after.prediction.bundle) == ("tiny@1.0.0", "tiny@1.1.0")


async def test_many_askers_cost_one_load(models: ShelfOfModels, answerer: Answerer) -> None:
    models.go.clear()
    asking = [asyncio.create_task(_ask(answerer, index=index % 4)) for index in range(16)]
    await _let_run(lambda: models.read["tiny@1.0.0"] == 1)
    models.go.set()
    labels = [(await one).prediction.label for one in asking]
    assert (labels, models.read["tiny@1.0.0"]) == ([LABELS[index % 4] for index in range(16)], 1)


async def test_model_is_not_loaded_again_for_the_next_question(models: ShelfOfModels, answerer: Answerer) -> None:
    for _ in range(3):
        await _ask(answerer)
    assert models.read["tiny@1.0.0"] == 1


async def test_files_that_no_answer_needs_are_not_asked_for(models: ShelfOfModels, answerer: Answerer) -> None:
    await _ask(answerer)
    golden = models.parts[BundleRef("tiny", "1.0.0")].manifest.golden
    assert (models.read[golden.inputs], models.read[golden.outputs]) == (0, 0)


async def test_more_versions_than_are_kept_still_answer(models: ShelfOfModels, answerer: Answerer) -> None:
    for version in FOUR_AND_MORE:
        models.put(make_parts(version=version))
    answers = [(await _ask(answerer, version)).prediction.bundle for version in FOUR_AND_MORE * 2]
    assert answers == [f"tiny@{version}" for version in FOUR_AND_MORE * 2]


async def test_more_versions_at_once_than_are_kept_all_answer(models: ShelfOfModels, answerer: Answerer) -> None:
    for version in FOUR_AND_MORE:
        models.put(make_parts(version=version))
    asked = [(version, index) for version in FOUR_AND_MORE for index in range(4)]
    replies = await asyncio.gather(*(_ask(answerer, version, index) for version, index in asked))
    assert [(reply.prediction.bundle, reply.prediction.label) for reply in replies] == [
        (f"tiny@{version}", LABELS[index]) for version, index in asked
    ]


async def test_model_that_was_asked_longest_ago_is_given_up_and_the_others_stay(
    models: ShelfOfModels, answerer: Answerer
) -> None:
    for version in FOUR_AND_MORE[:5]:
        models.put(make_parts(version=version))
        await _ask(answerer, version)
    for version in FOUR_AND_MORE[1:5]:
        await _ask(answerer, version)
    await _ask(answerer, FOUR_AND_MORE[0])
    assert [models.read[f"tiny@{version}"] for version in FOUR_AND_MORE[:5]] == [2, 1, 1, 1, 1]


async def test_model_under_an_answer_is_not_given_up(models: ShelfOfModels, answerer: Answerer) -> None:
    for version in FOUR_AND_MORE:
        models.put(make_parts(version=version))
    async with answerer.model("tiny", FOUR_AND_MORE[0]) as pool:
        for version in FOUR_AND_MORE[1:]:
            await _ask(answerer, version)
        assert (await pool.predict(_picture(2), deadline_s=30.0)).label == LABELS[2]


async def test_name_that_is_not_there_is_not_found(answerer: Answerer) -> None:
    with pytest.raises(NotFound, match=r"9\.9\.9"):
        await _ask(answerer, "9.9.9")


async def test_input_that_is_no_image_is_corrupt(answerer: Answerer) -> None:
    with pytest.raises(Corrupt):
        await answerer.infer(InferRequest(name="tiny", data=b"no image", deadline_ms=30_000))


async def test_missed_deadline_is_unavailable(models: ShelfOfModels, answerer: Answerer) -> None:
    models.go.clear()
    with pytest.raises(Unavailable, match="20 ms"):
        await _ask(answerer, deadline_ms=20)


async def test_model_goes_on_being_loaded_for_the_next_when_an_asker_gives_up(
    models: ShelfOfModels, answerer: Answerer
) -> None:
    models.go.clear()
    with pytest.raises(Unavailable):
        await _ask(answerer, deadline_ms=20)
    models.go.set()
    assert (await _ask(answerer)).prediction.label == LABELS[0]
    assert models.read["tiny@1.0.0"] == 1


# ---- models that cannot be loaded


async def test_engine_that_is_not_here_is_unavailable(models: ShelfOfModels) -> None:
    answerer = Answerer(models, engines=lambda: [EngineName.LITERT])
    with pytest.raises(Unavailable, match="no engine here"):
        await _ask(answerer)


async def test_most_exact_variant_that_the_engines_run_answers(models: ShelfOfModels, answerer: Answerer) -> None:
    models.put(_with_first_variant(make_parts(version="1.1.0"), Precision.INT8))
    prediction = (await _ask(answerer)).prediction
    assert (prediction.bundle, prediction.precision) == ("tiny@1.1.0", "float32")


async def test_variant_that_its_engine_does_not_run_is_passed_over(models: ShelfOfModels, answerer: Answerer) -> None:
    models.put(_with_first_variant(make_parts(version="1.1.0"), Precision.FLOAT32))  # no model at all, but the smallest
    prediction = (await _ask(answerer)).prediction
    assert (prediction.bundle, prediction.label) == ("tiny@1.1.0", LABELS[0])


async def test_bundle_of_which_nothing_runs_is_not_the_askers_fault(models: ShelfOfModels, answerer: Answerer) -> None:
    models.put(make_parts(version="1.1.0").with_model(b"no model"))
    with pytest.raises(Unavailable, match=r"no variant of tiny@1\.1\.0 runs here: ONNX Runtime"):
        await _ask(answerer)


async def test_model_that_failed_is_not_tried_with_each_question(models: ShelfOfModels, answerer: Answerer) -> None:
    models.failure = Corrupt("damaged")
    with pytest.raises(Corrupt, match="damaged"):
        await _ask(answerer)
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"tiny@1\.0\.0.*again in 10 s.*damaged"):
            await _ask(answerer)
    assert models.read["tiny@1.0.0"] == 1


async def test_model_that_failed_is_tried_again_later(models: ShelfOfModels, answerer: Answerer, watch: Watch) -> None:
    models.failure = Corrupt("damaged")
    with pytest.raises(Corrupt):
        await _ask(answerer)
    models.failure = None
    watch.now_s += 10.0
    assert (await _ask(answerer)).prediction.label == LABELS[0]


async def test_model_that_is_not_there_yet_is_looked_for_each_time(models: ShelfOfModels, answerer: Answerer) -> None:
    models.failure = NotFound("not yet")
    with pytest.raises(NotFound):
        await _ask(answerer)
    models.failure = None
    assert (await _ask(answerer)).prediction.label == LABELS[0]


# ---- the end


async def test_closing_does_not_wait_for_a_model_that_does_not_come(models: ShelfOfModels) -> None:
    answerer = Answerer(models)
    models.go.clear()
    asking = asyncio.create_task(_ask(answerer))
    await _let_run(lambda: models.read["tiny@1.0.0"] == 1)
    async with asyncio.timeout(10.0):
        await answerer.close()
    assert (await asyncio.gather(asking, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_closing_gives_the_loaded_models_up(models: ShelfOfModels) -> None:
    answerer = Answerer(models)
    await _ask(answerer)
    async with answerer.model("tiny", None) as pool:
        await answerer.close()
        with pytest.raises(Unavailable, match="closed"):
            await pool.predict(_picture(0), deadline_s=30.0)


async def _let_run(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10.0):
        while not is_true():
            await asyncio.sleep(0)


def _with_first_variant(parts: Parts, precision: Precision) -> Parts:
    """The same bundle with another variant before its own: for the same engine, smaller, and of bytes that no engine
    runs."""
    junk = b"no model"
    ours = parts.manifest.variants[0]
    other = msgspec.structs.replace(ours, file=digest(junk), size_bytes=len(junk), precision=precision)
    files = parts.files | {digest(junk): junk}
    return replace(parts, files=files).changed(variants=(other, ours), files=entries(files.values()))
