import asyncio
from collections.abc import AsyncIterator

import pytest

from builders import LABELS
from edgeloop.cloud.answer import Answerer
from edgeloop.contracts.errors import Corrupt, NotFound, Unavailable
from edgeloop.contracts.messages import InferReply, InferRequest
from small_cloud import SmallCloud, picture

pytestmark = pytest.mark.anyio


@pytest.fixture
async def answerer(cloud: SmallCloud) -> AsyncIterator[Answerer]:
    made = Answerer(cloud.database, cloud.stores.blobs)
    yield made
    await made.close()


async def _ask(answerer: Answerer, version: str | None = None, index: int = 0) -> InferReply:
    return await answerer.infer(InferRequest(name="tiny", version=version, data=picture(index), deadline_ms=30_000))


async def test_prediction_is_the_models(cloud: SmallCloud, answerer: Answerer) -> None:
    await cloud.publish()
    replies = [await _ask(answerer, index=index) for index in range(4)]
    assert [reply.prediction.label for reply in replies] == list(LABELS)


async def test_prediction_says_which_bundle_made_it(cloud: SmallCloud, answerer: Answerer) -> None:
    await cloud.publish("1.2.3")
    assert (await _ask(answerer)).prediction.bundle == "tiny@1.2.3"


async def test_version_that_is_published_later_answers_from_then_on(cloud: SmallCloud, answerer: Answerer) -> None:
    await cloud.publish("1.0.0")
    before = await _ask(answerer)
    await cloud.publish("1.1.0")
    after = await _ask(answerer)
    assert (before.prediction.bundle, after.prediction.bundle) == ("tiny@1.0.0", "tiny@1.1.0")


async def test_more_versions_than_are_kept_loaded_still_answer(cloud: SmallCloud, answerer: Answerer) -> None:
    versions = [f"1.0.{index}" for index in range(7)]
    for version in versions:
        await cloud.publish(version)
    answers = [(await _ask(answerer, version)).prediction.bundle for version in (*versions, *versions)]
    assert answers == [f"tiny@{version}" for version in (*versions, *versions)]


async def test_many_at_once_are_each_answered_their_own(cloud: SmallCloud, answerer: Answerer) -> None:
    await cloud.publish("1.0.0")
    await cloud.publish("1.0.1")
    asked = [(f"1.0.{index % 2}", index % 4) for index in range(16)]
    replies = await asyncio.gather(*(_ask(answerer, version, index) for version, index in asked))
    assert [(reply.prediction.bundle, reply.prediction.label) for reply in replies] == [
        (f"tiny@{version}", LABELS[index]) for version, index in asked
    ]


async def test_bundle_that_is_not_published_is_not_found(answerer: Answerer) -> None:
    with pytest.raises(NotFound, match="tiny"):
        await _ask(answerer)


async def test_input_that_is_no_image_is_corrupt(cloud: SmallCloud, answerer: Answerer) -> None:
    await cloud.publish()
    with pytest.raises(Corrupt):
        await answerer.infer(InferRequest(name="tiny", data=b"no image", deadline_ms=30_000))


async def test_missed_deadline_is_unavailable(cloud: SmallCloud, answerer: Answerer) -> None:
    await cloud.publish()
    with pytest.raises(Unavailable, match="1 ms"):  # loading the model alone takes longer
        await answerer.infer(InferRequest(name="tiny", data=picture(), deadline_ms=1))
