"""A whole simulation, start to end: where its hub is, its devices, its rollout, its report."""

import asyncio
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from edgeloop.contracts.api import Gate, JoinTokenRequest, RolloutRequest
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.join import Join, parse_join_token
from edgeloop.contracts.messages import WatchBounds
from edgeloop.contracts.names import BundleRef, is_loopback
from edgeloop.simulate.cloud import OwnCloud, write_stand_in
from edgeloop.simulate.fleet import Fleet
from edgeloop.simulate.plan import Plan
from edgeloop.simulate.program import Watched, listener_pid
from edgeloop.simulate.report import Report, Spreading, Window, figures, spreading
from edgeloop.toolchain.publish import publish
from edgeloop.transport.cloud_api import CloudApi, Operator
from edgeloop.transport.membership import open_client

_SETTLE_S = 2.0
_TERMINATED = 128 + signal.SIGTERM

LABEL = "simulation"
"""The label that simulated devices have; its value is the simulation's name."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a simulation takes place. operator: of its cloud; None: nothing is rolled out. bundle: what is; None: a
    stand-in of size_bytes, published first. more_urls: of replicas.
    """

    name: str
    hub_url: str
    more_urls: tuple[str, ...] = ()
    join: Join
    operator: Operator | None = None
    bundle: str | None = None
    size_bytes: int = 0
    ca: str | None = None
    watched: Watched | None = None


@contextmanager
def own_place(
    plan: Plan, folder: Path, *, size_bytes: int, options: tuple[str, ...] = ()
) -> "Iterator[tuple[Place, OwnCloud]]":
    """A cloud of the simulation's own, for as long as the context lasts, which a SIGTERM ends, too.

    options: of `cloud init` and `cloud serve`. To be used from the main thread.
    """
    cloud = OwnCloud(folder, options=options)
    cloud.found()
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        cloud.start()
        operator = cloud.operator()
        place = at_operator(plan, operator, size_bytes=size_bytes)
        yield msgspec.structs.replace(place, watched=cloud.watched()), cloud
    finally:
        cloud.end()
        signal.signal(signal.SIGTERM, before)


def _leave(*_: object) -> None:
    raise SystemExit(_TERMINATED)


def at_operator(plan: Plan, operator: Operator, *, size_bytes: int = 0, bundle: str | None = None) -> Place:
    """At a cloud that runs: with a join token of its own, which gives the devices a label of their own.

    Raises what the cloud's API raises.
    """
    name = new_name()
    wanted = JoinTokenRequest(uses=plan.devices + plan.nodes, labels={LABEL: name}, note="edgeloop fleet simulate")
    with CloudApi(operator) as api:
        join = parse_join_token(api.make_join_token(wanted).token)
    return Place(
        name=name,
        hub_url=operator.url,
        join=join,
        operator=operator,
        bundle=bundle,
        size_bytes=size_bytes,
        ca=operator.ca,
        watched=_watched(operator.url),
    )


def at_hub(hub_url: str, token: str, *, ca: str | None = None) -> Place:
    """At a hub of which only the address and a join token are known. Raises InvalidInput if they are none."""
    asyncio.run(open_client(hub_url, ca=ca).aclose())
    return Place(name=new_name(), hub_url=hub_url, join=parse_join_token(token), ca=ca, watched=_watched(hub_url))


def new_name() -> str:
    """What a simulation and its devices are called."""
    return f"sim-{secrets.token_hex(3)}"


def simulate(
    plan: Plan, place: Place, *, minutes: float, folder: Path, on_look: Callable[[str, Fleet], None]
) -> Report:
    """Enrol, live, roll out, live on, and tell. on_look: called a few times a second with what goes on.

    One beat, or a third of the time if that is less, passes before anything counts; of the rest, a third goes by before
    the rollout, which ends it when all devices have what they should. Raises Unavailable if the hub stays
    away at enrolment, or a process of the simulation breaks.
    """
    whole_s = 60 * minutes
    with fleet_at(place, plan, folder) as fleet:
        _show(fleet, "enrolling", on_look)
        enrolled_per_s = fleet.enrol()
        fleet.run()
        _show(fleet, "warming up", on_look)
        settle_s = min(plan.beat_s, whole_s / 3)
        fleet.watch(settle_s)
        _show(fleet, "beating", on_look)
        is_rolled_out = place.operator is not None
        steady_s = (whole_s - settle_s) / (3 if is_rolled_out else 1)
        steady = fleet.watch(steady_s)
        updating, spread = None, None
        if is_rolled_out:
            _show(fleet, "updating", on_look)
            updating, spread = roll_out(fleet, place, folder, within_s=2 * steady_s)
    return Report(
        plan=plan,
        enrolled=fleet.enrolled,
        enrolled_per_s=enrolled_per_s,
        steady=figures(steady, plan),
        updating=None if updating is None else figures(updating, plan),
        spreading=spread,
    )


def fleet_at(place: Place, plan: Plan, folder: Path) -> Fleet:
    """A place's fleet, not yet begun. folder: for its processes."""
    return Fleet(
        plan,
        hub_urls=(place.hub_url, *place.more_urls),
        join=place.join,
        name=place.name,
        folder=folder,
        ca=place.ca,
        watched=place.watched,
    )


def roll_out(fleet: Fleet, place: Place, folder: Path, *, within_s: float) -> tuple[Window, Spreading]:
    """Publish the stand-in, or take what is published, bring it to all simulated devices, and look on until they have
    it, or for so long. Raises InvalidInput if the bundle's name is none, and what the cloud's API raises.
    """
    assert place.operator is not None
    since_s = time.monotonic()
    before = len(fleet.total.reached)
    with CloudApi(place.operator) as api:
        bundle = place.bundle or _publish_stand_in(place, api, folder, seed=fleet.plan.seed)
        gate = Gate(max_failed=fleet.plan.devices, watch=WatchBounds(min_readings=0))
        group = f"{LABEL}={place.name}"
        api.start_rollout(RolloutRequest(bundle=bundle, group=group, waves=("100%",), gate=gate))
        size_bytes = _size_bytes(api, bundle)

    def has_all() -> bool:
        return len(fleet.total.reached) - before >= fleet.plan.devices

    window = fleet.watch(max(0.0, since_s + within_s - time.monotonic()), until=has_all)
    reached = fleet.total.reached[before:]
    return window, spreading(reached, since_s=since_s, plan=fleet.plan, bundle=bundle, size_bytes=size_bytes)


class Reconnected(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a fleet that a cloud has come back to. answered: devices that were; last_s: when the last one was,
    None if one was not. more_bytes: the cloud's memory at most meanwhile, beyond that of one that has just started.
    """

    answered: int
    last_s: float | None
    more_bytes: int


def reconnect(fleet: Fleet, cloud: OwnCloud, *, idle_bytes: int, within_s: float) -> Reconnected:
    """Kill the cloud under its devices, start it anew, and have all of them ask at once.

    idle_bytes: what a cloud took that had just started. The memory is the most of the process's life, so that nothing
    passes between two looks. Raises Unavailable if the cloud does not start.
    """
    cloud.kill()
    cloud.start()
    since_s = time.monotonic()
    fleet.watched = cloud.watched()
    returned = fleet.ask(timeout_s=within_s)
    fleet.watch(_SETTLE_S)
    return Reconnected(
        answered=len(returned),
        last_s=max(returned) - since_s if len(returned) == fleet.plan.devices else None,
        more_bytes=fleet.watched.peak_memory_bytes() - idle_bytes,
    )


def _publish_stand_in(place: Place, api: CloudApi, folder: Path, *, seed: int) -> str:
    assert place.operator is not None
    if place.operator.targets_key is None:
        raise InvalidInput("the operator file names no targets key; name a published bundle with --bundle")
    taken = sum(view.name == "simulated" for view in api.bundles())
    version = f"1.0.{taken}"
    path = write_stand_in(folder, version=version, size_bytes=place.size_bytes, seed=seed)
    publish(path, api, targets_key=Path(place.operator.targets_key))
    return str(BundleRef("simulated", version))


def _size_bytes(api: CloudApi, bundle: str) -> int:
    ref = BundleRef.parse(bundle)
    manifest = next(view.manifest for view in api.bundles() if (view.name, view.version) == (ref.name, ref.version))
    return sum(entry.size_bytes for entry in manifest.files)


def _watched(hub_url: str) -> Watched | None:
    """The hub's process, if it is one of this machine that may be looked at."""
    url = urlsplit(hub_url)
    if url.port is None or not is_loopback(url.hostname or ""):
        return None
    pid = listener_pid(url.port)
    return None if pid is None else Watched(pid)


def _show(fleet: Fleet, what: str, on_look: Callable[[str, Fleet], None]) -> None:
    fleet.on_look = lambda: on_look(what, fleet)
