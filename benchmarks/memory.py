"""How much memory a device's agent holds while it waits: a real one, enrolled with a real cloud on loopback.

`edgeloop cloud serve` and `edgeloop device run` as a person starts them; the cloud stands in its own process and does
not count. PSS shares what processes have in common, RSS counts it whole; Greengrass publishes RSS-like figures, so
RSS is the stricter of the two.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
    """Of one process, in bytes."""

    pss_bytes: int
    rss_bytes: int


def memory_of(pid: int) -> Memory:
    """What Linux says that a process holds now. Raises FileNotFoundError if there is none or this is no Linux."""
    folder = Path("/proc") / str(pid)
    return Memory(
        pss_bytes=bytes_of((folder / "smaps_rollup").read_text(), "Pss"),
        rss_bytes=bytes_of((folder / "status").read_text(), "VmRSS"),
    )


def bytes_of(listing: str, name: str) -> int:
    """A figure of /proc, which it gives in kB of 1,024 bytes. Raises KeyError if it is not listed."""
    line = re.search(rf"^{name}:\s+(\d+) kB$", listing, flags=re.MULTILINE)
    if line is None:
        raise KeyError(name)
    return int(line[1]) * 1024


def idle_agent(folder: Path, *, settle_s: float = SETTLE_S) -> Memory:
    """An agent without a model, this long after it was ready. folder: empty, for the cloud and the device."""
    with _agent(folder) as (_, pid):
        time.sleep(settle_s)
        return memory_of(pid())


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
        return memory_of(pid())


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
