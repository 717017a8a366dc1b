"""What the works share: a founded cloud as a process, what is published in it, who belongs to it, what came up.

The bundles are those of the tests' `builders`: a real ONNX classifier of 8x8 images behind the real runtime.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from builders import LABELS, Parts, make_parts, onnx_model, pack, quadrant_images, quadrant_weights
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.contracts.api import Gate, JoinTokenRequest, ReadingView, RolloutRequest
from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.join import parse_join_token
from edgeloop.contracts.messages import DeviceReport, Event, Reading, Sample, WatchBounds
from edgeloop.contracts.states import Kind, RolloutState, UpdateState
from edgeloop.device.agent import open_outbox
from edgeloop.runtime.input.images import encode_png
from edgeloop.runtime.profile import this_machine
from edgeloop.toolchain.publish import publish
from edgeloop.transport.cloud_api import CloudApi, Operator, read_operator
from edgeloop.transport.membership import join_hub
from torture.warm import Order, Running, Settings, Warm

DEADLINE_S = 60.0
_PAGE = 1000


class World:
    """A cloud, and what hangs on it. Everything lies in `folder`; `close` ends what it started."""

    def __init__(self, warm: Warm, folder: Path, *, faults: tuple[str, ...] = (), cloud: Path | None = None) -> None:
        """cloud: where the cloud is to have its folder, if not in `folder`. faults: of the cloud."""
        self.folder = folder
        self._warm = warm
        self._running: dict[str, Running] = {}
        self._orders: dict[str, Order] = {}
        self._warms: dict[str, Warm] = {}
        self._cloud = cloud or folder / "cloud"
        found(CloudConfig(folder=self._cloud), keys=folder / "keys", url="http://127.0.0.1:0")
        order = Order(role="cloud", log="", settings={"folder": str(self._cloud)}, faults=faults)
        self.url = self.start("cloud", order)
        token = read_operator(self._cloud / "operator.json").token
        self.api = CloudApi(Operator(url=self.url, token=token))
        self.pin("cloud", self.url)

    @property
    def port(self) -> int:
        """The cloud's."""
        return port_of(self.url)

    def close(self) -> None:
        """End all of it."""
        self.api.__exit__(None, None, None)
        for name in list(self._running):
            self._running.pop(name).kill()

    # ---- processes

    def start(self, name: str, order: Order, *, warm: Warm | None = None) -> str:
        """Start one, wait until it is ready; the URL that it told, if it has one. warm: who forks it, if another."""
        self._warms[name] = warm or self._warm
        log = self.folder / "logs" / f"{name}.log"
        self._orders[name] = msgspec.structs.replace(order, log=str(log))
        return self.start_again(name)

    def start_again(self, name: str) -> str:
        """The same as before it was killed."""
        self._running[name] = self._warms[name].start(self._orders[name])
        return self._running[name].ready().get("url", "")

    def order_again(self, name: str, more: Settings) -> str:
        """The same with these settings beside the others."""
        order = self._orders[name]
        self._orders[name] = msgspec.structs.replace(order, settings={**order.settings, **more})
        return self.start_again(name)

    def pin(self, name: str, url: str) -> None:
        """Let it have this port when it is started again."""
        order = self._orders[name]
        self._orders[name] = msgspec.structs.replace(order, settings={**order.settings, "port": port_of(url)})

    def kill(self, name: str) -> None:
        """SIGKILL it."""
        self._running.pop(name).kill()

    def stop(self, name: str) -> None:
        """SIGTERM it, and wait until it has ended in order."""
        self._running.pop(name).stop()

    def is_alive(self, name: str) -> bool:
        """Whether it still runs."""
        return self._running[name].is_alive()

    def log(self, name: str) -> str:
        """What it wrote so far."""
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    # ---- members

    def enrol(self, folder: Path, name: str, *, hub: str, kind: Kind = Kind.DEVICE, ca: str | None = None) -> None:
        """Let a device or node join through a hub. hub: a URL, which it will keep to."""
        token = parse_join_token(self.api.make_join_token(JoinTokenRequest()).token)
        asyncio.run(join_hub(folder, hub_url=hub, join=token, device_id=name, kind=kind, profile=this_machine(), ca=ca))

    # ---- versions

    def publish(self, version: str, *, padding_bytes: int = 0, is_bad: bool = False) -> None:
        """Publish the tiny bundle. padding_bytes: so much larger is its model. is_bad: its labels are in another order
        than its outputs, which no golden sample shows.
        """
        made = pack(parts(version, padding_bytes=padding_bytes, is_bad=is_bad), self.folder)
        publish(made, self.api, targets_key=self.folder / "keys" / "targets.pem")

    def start_rollout(self, version: str, *, min_readings: int = 0) -> str:
        """Give it to everybody; returns the rollout's id."""
        deadline_s = DEADLINE_S if min_readings else 5.0
        gate = Gate(watch=WatchBounds(min_readings=min_readings, max_latency_ratio=1000.0, deadline_s=deadline_s))
        request = RolloutRequest(bundle=f"tiny@{version}", waves=("100%",), gate=gate)
        return self.api.start_rollout(request).rollout_id

    def roll_out(self, version: str) -> None:
        """Give it to everybody, and wait for the end."""
        rollout = self.start_rollout(version)
        until(lambda: self.api.rollout(rollout).state is not RolloutState.RUNNING, f"the rollout of {version}")
        ended = self.api.rollout(rollout)
        assert ended.state is RolloutState.COMPLETED, ended.reason

    def report(self, device_id: str) -> DeviceReport | None:
        """What a device said last."""
        return next(one for one in self.api.devices() if one.device_id == device_id).report

    def active(self, device_id: str) -> str | None:
        """What a device said last that it runs."""
        report = self.report(device_id)
        return report.active if report is not None else None

    def has_ended(self, device_id: str, bundle: str, state: UpdateState) -> bool:
        """Whether a device said last that its update to this version ended so."""
        report = self.report(device_id)
        update = report.update if report is not None else None
        return update is not None and (update.bundle, update.state) == (bundle, state)

    # ---- what came up

    def readings(self, device_id: str) -> list[ReadingView]:
        """All that the cloud holds of a device."""
        rows: list[ReadingView] = []
        while page := self.api.readings(device_id, after=len(rows), limit=_PAGE):
            rows += page
        return rows

    def count(self, device_id: str) -> int:
        """How many readings the cloud holds of a device."""
        return sum(row.readings for row in self.api.event_counts() if row.device_id == device_id)

    def rows(self, device_id: str) -> int:
        """How many events of any kind the cloud holds of a device."""
        counts = [row for row in self.api.event_counts() if row.device_id == device_id]
        return sum(row.readings + row.samples + row.alerts for row in counts)


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """Whether every frame and every acknowledged row of a device is in the cloud, once.

    samples, alerts: of the device's own record. late: frames that the device did not come to yet. lost: rows of its
    record that the cloud does not have, or has otherwise, and other frames that it has no reading of. doubled: readings
    of the same frame, and rows of other kinds beyond the device's. why: of what kind they are.
    """

    frames: int
    acknowledged: int
    samples: int
    alerts: int
    late: int
    lost: int
    doubled: int
    why: str = ""


def account(world: World, folder: Path, device_id: str, frames: set[str]) -> Account:
    """Compare a device's own record with the cloud's; the device must not run."""
    outbox = open_outbox(folder, device_id)
    own = list(outbox.events())
    acknowledged = outbox.stats().acknowledged_rows
    read_last = outbox.last_source()
    outbox.close()
    readings = [event for event in own if isinstance(event.body, Reading)]
    samples = [event for event in own if isinstance(event.body, Sample)]
    alerts = len(own) - len(readings) - len(samples)
    rows = world.readings(device_id)
    there = {(row.epoch, row.sequence): row.reading for row in rows}
    seen = Counter(row.reading.source for row in rows)
    late = waiting(frames, read_last)
    gone = frames - late - set(seen)
    missing = sum(there.get((event.epoch, event.sequence)) != event.body for event in readings)
    counts = [row for row in world.api.event_counts() if row.device_id == device_id]
    more_samples = sum(row.samples for row in counts) - len(samples)
    more_alerts = sum(row.alerts for row in counts) - alerts
    without_bytes = sum(not _is_there(world, event) for event in samples)
    return Account(
        frames=len(frames),
        acknowledged=acknowledged,
        samples=len(samples),
        alerts=alerts,
        late=len(late),
        lost=max(missing, len(gone)) + without_bytes + max(0, -more_alerts),
        doubled=sum(count - 1 for count in seen.values()) + max(0, more_samples) + max(0, more_alerts),
        why=f"{device_id}: {missing} readings and {len(gone)} frames missing, {len(late)} frames still waiting in the "
        f"spool, {without_bytes} samples without bytes, {more_samples:+} samples, {more_alerts:+} alerts in the cloud",
    )


def waiting(frames: set[str], read_last: str) -> set[str]:
    """Those that a device did not come to yet, which reads them in the order of their names."""
    return {frame for frame in frames if frame > read_last}


def _is_there(world: World, event: Event) -> bool:
    """Whether the cloud gives back a sample's bytes."""
    assert isinstance(event.body, Sample)
    try:
        return world.api.sample_data(f"{event.device_id}.{event.epoch}.{event.sequence}") == event.body.data
    except NotFound:
        return False


def parts(version: str, *, padding_bytes: int = 0, is_bad: bool = False) -> Parts:
    """The tiny bundle of a version, each with weights of its own; its model as large as wanted."""
    sharpness = 20.0 + sum(int(number) for number in version.split("."))
    labels = LABELS[1:] + LABELS[:1] if is_bad else LABELS
    made = make_parts(version=version, weights=quadrant_weights(sharpness=sharpness), labels=labels)
    if not padding_bytes:
        return made
    import onnx

    model = onnx.load_from_string(onnx_model(quadrant_weights(sharpness=sharpness)))
    model.doc_string = f"{version} " * (padding_bytes // (len(version) + 1))
    return made.with_model(model.SerializeToString(deterministic=True))


class Spool:
    """A device's source: a folder into which frames are put, each there at once and whole, under a name of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: set[str] = set()
        self._images = folder.with_name(f"{folder.name}-images")
        for path in (folder, self._images):
            path.mkdir(parents=True)
        for index, image in enumerate(quadrant_images(2 * len(LABELS))):
            (self._images / f"{index}.png").write_bytes(encode_png(image))
        self._next = itertools.count()

    def put(self, count: int = 1) -> None:
        """More frames before the device."""
        for number in itertools.islice(self._next, count):
            name = f"{number:07d}.png"
            (self.folder / name).hardlink_to(self._images / f"{number % (2 * len(LABELS))}.png")
            self.names.add(name)


def port_of(url: str) -> int:
    """The port in a URL."""
    return int(url.rpartition(":")[2].rstrip("/"))


def until(is_true: Callable[[], bool], what: str, *, timeout_s: float = DEADLINE_S, every_s: float = 0.02) -> None:
    """Look again and again, with an end. Raises AssertionError."""
    until_s = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > until_s:
            raise AssertionError(f"{what} did not come about within {timeout_s:.0f} s")
        time.sleep(every_s)
