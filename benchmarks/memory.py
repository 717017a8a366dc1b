"""How much memory a device's agent holds while it waits: a real one, enrolled with a real cloud on loopback.

`edgeloop cloud serve` and `edgeloop device run` as a person starts them; the cloud stands in its own process and does
not count. The processes that the agent has started, in which versions answer, count with it; what these have in common
counts once, as it lies in memory once. Greengrass publishes resident memory of one process.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.servers.peers import free_port
from edgeloop.cli.demo.fleet import Fleet
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.contracts.api import JoinTokenRequest, RolloutRequest
from edgeloop.toolchain.publish import publish
from edgeloop.transport.cloud_api import CloudApi, read_operator

SETTLE_S = 5.0

_AGENT, _CLOUD = "agent", "cloud"
_POLL_S = 0.2
_ACTIVE_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Memory:
    """Of one process, or of several together, in bytes: resident with what they have in common counted once, each, and
    with what they share with any process on this machine shared out."""

    held_bytes: int
    rss_bytes: int
    pss_bytes: int
    processes: int = 1


def memory_of(*pids: int) -> Memory:
    """What Linux says that processes hold together now. Raises NoSuchProcess, or AttributeError if this is no Linux.

    Of a file that several have in memory the most that one of them has counts, but for the pages that it wrote to.
    """
    own_bytes = rss_bytes = pss_bytes = 0
    most_bytes: dict[str, int] = {}
    for pid in pids:
        for one in psutil.Process(pid).memory_maps(grouped=True):
            rss_bytes += one.rss
            pss_bytes += one.pss
            of_file_bytes = one.rss - one.private_dirty if one.path.startswith("/") else 0
            own_bytes += one.rss - of_file_bytes
            most_bytes[one.path] = max(most_bytes.get(one.path, 0), of_file_bytes)
    return Memory(own_bytes + sum(most_bytes.values()), rss_bytes, pss_bytes, len(pids))


def memory_with_children(pid: int) -> Memory:
    """The same of a process and of all that it has started and that still run, together."""
    return memory_of(pid, *(child.pid for child in psutil.Process(pid).children(recursive=True)))


def idle_agent(folder: Path, *, settle_s: float = SETTLE_S) -> Memory:
    """An agent without a model, this long after it was ready. folder: empty, for the cloud and the device."""
    with _agent(folder) as (_, pid):
        time.sleep(settle_s)
        return memory_with_children(pid())


def agent_with(bundle: Path, folder: Path, *, settle_s: float = SETTLE_S) -> Memory:
    """An agent that has taken a bundle over the air and holds it active, this long after it said so."""
    with _agent(folder) as (api, pid):
        view = publish(bundle, api, targets_key=folder / "keys" / "targets.pem")
        api.start_rollout(RolloutRequest(bundle=f"{view.name}@{view.version}", waves=("100%",)))
        until_s = time.monotonic() + _ACTIVE_TIMEOUT_S
        while not any(device.report and device.report.active for device in api.devices()):
            if time.monotonic() > until_s:
                raise RuntimeError(f"the agent did not take {bundle.name} within {_ACTIVE_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)
        time.sleep(settle_s)
        return memory_with_children(pid())


@contextmanager
def _agent(folder: Path) -> Iterator[tuple[CloudApi, Callable[[], int]]]:
    """A cloud and one enrolled agent; both are gone on leaving."""
    config, url = CloudConfig(folder=folder / _CLOUD), f"http://127.0.0.1:{free_port()}"
    found(config, keys=folder / "keys", url=url)
    fleet = Fleet(folder / "logs")
    try:
        fleet.start(_CLOUD, "cloud", "serve", "--dir", str(config.folder), "--port", url.rpartition(":")[2])
        with CloudApi(read_operator(config.folder / "operator.json")) as api:
            token = api.make_join_token(JoinTokenRequest(uses=1)).token
            place = ("--dir", str(folder / _AGENT), "--hub", url, "--join", token, "--id", _AGENT)
            fleet.start(_AGENT, "device", "run", *place)
            yield api, lambda: fleet.pids()[_AGENT]
    finally:
        fleet.stop()
