"""The models behind the cloud's `infer`; how they are kept and asked is tested with runtime.answerer."""

from collections.abc import AsyncIterator

import pytest

from builders import LABELS, make_parts
from edgeloop.cloud.answer import PublishedModels
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.messages import InferRequest
from edgeloop.contracts.names import BundleRef
from edgeloop.runtime.answerer import Answerer
from small_cloud import SmallCloud, picture

pytestmark = pytest.mark.anyio


@pytest.fixture
def models(cloud: SmallCloud) -> PublishedModels:
    return PublishedModels(cloud.database, cloud.stores.blobs)


@pytest.fixture
async def answerer(models: PublishedModels) -> AsyncIterator[Answerer]:
    made = Answerer(models)
    yield made
    await made.close()


async def test_prediction_is_the_published_models(cloud: SmallCloud, answerer: Answerer) -> None:
    await cloud.publish("1.2.3")
    asked = [InferRequest(name="tiny", data=picture(index), deadline_ms=30_000) for index in range(4)]
    predictions = [(await answerer.infer(one)).prediction for one in asked]
    assert [(one.label, one.bundle) for one in predictions] == [(label, "tiny@1.2.3") for label in LABELS]


async def test_version_that_is_published_later_is_the_newest_from_then_on(
    cloud: SmallCloud, models: PublishedModels
) -> None:
    await cloud.publish("1.9.0")
    before = await models.find("tiny", None)
    await cloud.publish("1.10.0")
    assert (before, await models.find("tiny", None)) == (BundleRef("tiny", "1.9.0"), BundleRef("tiny", "1.10.0"))


async def test_version_that_is_asked_for_is_found_beside_a_newer_one(
    cloud: SmallCloud, models: PublishedModels
) -> None:
    await cloud.publish("1.0.0")
    await cloud.publish("1.1.0")
    assert await models.find("tiny", "1.0.0") == BundleRef("tiny", "1.0.0")


async def test_manifest_and_files_are_those_that_were_published(cloud: SmallCloud, models: PublishedModels) -> None:
    await cloud.publish()
    parts = make_parts()
    assert await models.manifest(parts.manifest.ref) == to_json(parts.manifest)
    assert {sha256: await models.file(sha256) for sha256 in parts.files} == parts.files


async def test_name_that_is_not_published_is_not_found(models: PublishedModels) -> None:
    with pytest.raises(NotFound, match="tiny"):
        await models.find("tiny", None)


async def test_version_that_is_not_published_has_no_manifest(models: PublishedModels) -> None:
    with pytest.raises(NotFound, match=r"tiny@9\.9\.9"):
        await models.manifest(BundleRef("tiny", "9.9.9"))
