"""Malformed requests at a real cloud: it answers each, knows no bug, does not grow, and still does its work."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz_requests import OpenCloud, fuzz_api, fuzz_hub

MOST_GROWN_MIB = 48
"""Of resident memory after the first fifth: measured 0.7 to 2.0; two bodies of 16 MiB may be in hand at the end."""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenCloud]:
    opened = OpenCloud(tmp_path_factory.mktemp("fuzzed"))
    yield opened
    opened.close()


def test_hub_answers_whatever_it_is_sent(cloud: OpenCloud) -> None:
    came = fuzz_hub(cloud, cases=1500, seed=1)
    assert came.bugs == []
    assert came.cases == 1500
    assert came.statuses[200] > 20, "some must get through, or nothing was tried behind the door"
    assert {400, 403, 404, 422} <= set(came.statuses)
    assert came.grown_mib < MOST_GROWN_MIB
    assert "request_failed" not in cloud.log()


def test_api_answers_whatever_it_is_sent(cloud: OpenCloud) -> None:
    came = fuzz_api(cloud, cases=500, seed=1)
    assert came.bugs == []
    assert came.cases > 300
    assert came.statuses[200] > 10
    assert {400, 404} <= set(came.statuses)
    assert came.grown_mib < MOST_GROWN_MIB
    assert "request_failed" not in cloud.log()


def test_bug_is_found_where_there_is_one(tmp_path: Path) -> None:
    """The control: a hub that forgets to check what it is sent is told apart."""
    sabotage = (
        "import edgeloop.hub.routes as routes\n"
        "routes._message = lambda body, kind: __import__('msgspec').msgpack.decode(body, type=kind)\n"
    )
    broken = OpenCloud(tmp_path, sabotage=sabotage)
    try:
        assert fuzz_hub(broken, cases=40, seed=1).bugs
        assert "request_failed" in broken.log()
    finally:
        broken.close()


def test_request_that_spoils_what_people_look_at_is_found(tmp_path: Path) -> None:
    """The control: a hub that takes numbers which are not finite answers well, and then cannot tell what it has."""
    sabotage = "import edgeloop.hub.reports as reports\nreports.is_finite = lambda report: True\n"
    broken = OpenCloud(tmp_path, sabotage=sabotage)
    try:
        assert any("unreadable" in bug for bug in fuzz_hub(broken, cases=400, seed=1).bugs)
    finally:
        broken.close()
