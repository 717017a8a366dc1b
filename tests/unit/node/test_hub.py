"""The node's hub by itself: what it has heard of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.messages import Desired
from edgeloop.hub.waker import Waker
from edgeloop.node.answer import Answering
from edgeloop.node.cache import Cache
from edgeloop.node.hub import NodeHub
from edgeloop.transport.identity import Identity
from edgeloop.transport.keep import Keep
from edgeloop.transport.outbox import Outbox
from edgeloop.transport.uplink import Uplink
from small_cloud import key_of

pytestmark = pytest.mark.anyio


class FullKeep(Keep):
    """A keep whose disk may be full."""

    is_full = True

    def set(self, changes: Mapping[str, Any]) -> None:
        if self.is_full:
            raise Unavailable("the keep cannot write: database or disk is full")
        super().set(changes)


async def test_news_that_finds_the_disk_full_is_news_again_when_there_is_room(tmp_path: Path) -> None:
    keep = FullKeep(tmp_path / "node.db")
    outbox = Outbox(tmp_path / "outbox.db", "node")
    async with httpx.AsyncClient(base_url="http://hub.test") as client:
        uplink = Uplink(client, Identity("node", key_of("node")))
        waker = Waker()
        cache = Cache(tmp_path / "cache", uplink)
        hub = NodeHub(uplink, keep=keep, cache=cache, outbox=outbox, answering=Answering(uplink, None), waker=waker)
        news = Desired(device_id="camera-1", generation=3)
        with waker.listening(["camera-1"]) as woken:
            with pytest.raises(Unavailable):
                hub.on_desired(news)
            assert hub.known() == {}, "the hub above must be asked for it again"
            keep.is_full = False
            hub.on_desired(news)
            assert woken.is_set()
        assert hub.known() == {"camera-1": 3}
        assert keep.get("desired", dict[str, int]) == {"camera-1": 3}
    outbox.close()
    keep.close()
