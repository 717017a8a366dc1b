"""Seven kinds of bad model, each signed and published, through a real cloud to a real device that works meanwhile."""

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from bad_models import crashing, dark, slow, waiting
from builders import LABELS, SIDE_PX, Damage, Parts, make_parts, pack, quadrant_images, quadrant_weights
from edgeloop.bundle.durable import write_durable
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.contracts.api import Gate, JoinTokenRequest, ReadingView, RolloutDevice, RolloutRequest, RolloutView
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.manifest import Budget, EngineName
from edgeloop.contracts.messages import WatchBounds
from edgeloop.contracts.states import Outcome
from edgeloop.runtime.input.images import encode_png
from edgeloop.toolchain.publish import publish
from edgeloop.transport.cloud_api import CloudApi, Operator, read_operator
from processes import Process

GOOD = "tiny@1.0.0"
WITHIN_S = 60.0
LONGEST_GAP_MS = 1000
RATE_HZ = 25
WATCH = WatchBounds(min_readings=15, deadline_s=WITHIN_S)
NO_WATCH = WatchBounds(min_readings=0)
NEVER = WatchBounds(min_readings=1_000_000, deadline_s=3600.0)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="how a process died is told by Linux's signals")


@dataclass
class World:
    """A cloud, a camera, and a device under something that starts it again, as systemd would."""

    folder: Path
    api: CloudApi
    device: Process
    versions: Iterator[int] = field(default_factory=itertools.count)
    starts: int = 0
    frames: int = 0
    camera_sees: Callable[[int], bytes] = lambda index: encode_png(_PICTURES[index % len(_PICTURES)])
    stop: threading.Event = field(default_factory=threading.Event)

    def begin(self, parts: Parts, watch: WatchBounds = WATCH) -> RolloutView:
        """Publish it as the next version and start to bring it to the device."""
        version = f"1.{next(self.versions)}.0"
        archive = pack(parts.changed(version=version), self.folder)
        publish(archive, self.api, targets_key=self.folder / "keys" / "targets.pem")
        return self.begin_again(f"tiny@{version}", watch)

    def begin_again(self, bundle: str, watch: WatchBounds = WATCH) -> RolloutView:
        """Of what is published."""
        gate = Gate(watch=watch, spare_drifted=False)  # the black pictures of one test are a drift to the others
        return self.api.start_rollout(RolloutRequest(bundle=bundle, waves=("100%",), gate=gate))

    def end(self, view: RolloutView) -> RolloutDevice:
        """How it ended on the device."""
        until(lambda: self.api.rollout(view.rollout_id).state.is_final, f"the end of {view.bundle}")
        (device,) = self.api.rollout(view.rollout_id).devices
        return device

    def active(self) -> str | None:
        (view,) = self.api.devices()
        assert view.report is not None
        return view.report.active

    def readings(self, since: int = 0) -> list[ReadingView]:
        """All but the first so many."""
        rows: list[ReadingView] = []
        while page := self.api.readings("cam", after=since + len(rows), limit=1000):
            rows += page
        return rows

    def longest_gap_ms(self, since: int) -> int:
        """Between two answers, of the readings after so many."""
        at_ms = [row.at_ms for row in self.readings(since)]
        assert len(at_ms) > RATE_HZ
        return max(later - earlier for earlier, later in itertools.pairwise(at_ms))

    def photograph(self) -> None:
        """A camera that writes files."""
        for index in itertools.count():
            if self.stop.wait(1 / RATE_HZ):
                return
            write_durable(self.folder / "spool" / f"{index:06}.png", self.camera_sees(index))
            self.frames += 1

    @contextmanager
    def dark_now_and_then(self) -> Iterator[None]:
        """Every fifth picture is black."""
        seen = self.camera_sees
        self.camera_sees = lambda index: _BLACK if index % 5 == 0 else seen(index)
        try:
            yield
        finally:
            self.camera_sees = seen

    def children(self) -> list[psutil.Process]:
        """The processes that the agent has started and that still run."""
        assert self.device.handle is not None
        return psutil.Process(self.device.handle.pid).children()

    def supervise(self) -> None:
        """Start the device again whenever it ends, at most so often."""
        for _ in range(10):
            handle = self.device.handle
            assert handle is not None
            while handle.poll() is None:
                if self.stop.wait(0.02):
                    return
            self.starts += 1
            self.device.start()


_PICTURES = list(quadrant_images(16, seed=3))
_BLACK = encode_png(np.zeros((SIDE_PX, SIDE_PX), np.uint8))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """GOOD is at work on the device, before each test and after it."""
    tmp_path = tmp_path_factory.mktemp("world")
    folder = tmp_path / "cloud"
    found(CloudConfig(folder=folder), keys=tmp_path / "keys", url="http://127.0.0.1:0")
    serve = ("cloud", "serve", "--json", "--dir", str(folder), "--port", "0")
    cloud = Process("-m", "edgeloop", *serve, log=tmp_path / "cloud.log")
    url = cloud.start()["url"]
    operator = Operator(url=url, token=read_operator(folder / "operator.json").token)
    (tmp_path / "operator.json").write_bytes(to_json(operator))
    with CloudApi(operator) as api:
        token = api.make_join_token(JoinTokenRequest()).token
        (tmp_path / "spool").mkdir()
        where = ("--dir", str(tmp_path / "device"), "--hub", url, "--join", token, "--id", "cam")
        how = ("--source", str(tmp_path / "spool"), "--race-s", "0", "--longest-backoff-s", "0.3", "--json")
        made = World(tmp_path, api, Process("-m", "edgeloop", "device", "run", *where, *how, log=tmp_path / "dev.log"))
        threads = [threading.Thread(target=one) for one in (made.photograph, made.supervise)]
        try:
            made.device.start()
            for thread in threads:
                thread.start()
            assert made.end(made.begin(make_parts())).outcome is Outcome.CONFIRMED
            yield made
        finally:
            made.stop.set()
            for thread in threads:
                thread.join(30)
            made.device.stop()
            cloud.stop()


def _for_litert(model: bytes) -> Parts:
    parts = make_parts().with_model(model)
    variant = msgspec.structs.replace(
        parts.manifest.variants[0],
        engine=EngineName.LITERT,
        tensors={"image": "image", "logits": "logits"},
    )
    output = msgspec.structs.replace(parts.manifest.output, features=None)
    return parts.changed(variants=(variant,), output=output, reference=None)


def _wrong_labels() -> Parts:
    """Whose labels are in another order than its outputs: golden samples do not show it."""
    return make_parts(weights=quadrant_weights(sharpness=23.0), labels=LABELS[1:] + LABELS[:1])


def _unsure() -> Parts:
    """The right labels, but hardly surer of them than of the others, as after wrong scaling that training had, too."""
    return make_parts(weights=quadrant_weights(sharpness=1.0))


REFUSED = {
    "damaged weights": (lambda: make_parts(damage=Damage.WEIGHTS), "0% of labels agree"),
    "wrong preprocessing": (lambda: make_parts(damage=Damage.PREPROCESS), "golden samples"),
    "NaN outputs": (lambda: make_parts(damage=Damage.NAN), "NaN"),
    "too slow": (
        lambda: make_parts(weights=quadrant_weights(sharpness=24.0)).changed(budget=Budget(max_latency_p50_ms=1e-6)),
        "too slow here",
    ),
    "too big": (
        lambda: make_parts(weights=quadrant_weights(sharpness=25.0)).changed(
            budget=Budget(max_peak_memory_bytes=1_000_000)
        ),
        "too big here",
    ),
    "crashing as it loads": (lambda: _for_litert(crashing()), "the model crashed the engine: SIGSEGV"),
}
ROLLED_BACK = {
    "wrong labels": (_wrong_labels, "100% differ from the old version"),
    "unsure of everything": (_unsure, "of top scores lie elsewhere"),
    "slow in its work": (lambda: make_parts().with_model(slow()), "times the old version's latency"),
}


def test_bad_models_are_refused_or_rolled_back_while_the_old_version_answers(world: World, slack: float) -> None:
    before, starts = len(world.readings()), world.starts
    for outcome, kinds in ((Outcome.REFUSED, REFUSED), (Outcome.ROLLED_BACK, ROLLED_BACK)):
        for kind, (make, said) in kinds.items():
            device = world.end(world.begin(make()))  # within WITHIN_S
            assert (kind, device.outcome, said in device.reason) == (kind, outcome, True), device.reason
            assert world.active() == GOOD
    assert world.starts == starts, "the agent lived through all of them"
    assert world.longest_gap_ms(before) <= slack * LONGEST_GAP_MS
    # The control: what only the watch catches is put to work for good without it.
    bad = world.begin(_wrong_labels(), NO_WATCH)
    assert (world.end(bad).outcome, world.active()) == (Outcome.CONFIRMED, bad.bundle)
    # A person at the device goes back while its agent is at work, and the cloud hears of it.
    done = _edgeloop("device", "rollback", "--dir", str(world.folder / "device"), "--json")
    assert (done.returncode, done.stdout) == (0, '{"active":"tiny@1.0.0"}\n'), done.stderr
    until(lambda: world.active() == GOOD, "the cloud hearing of it")
    until(lambda: world.end(bad).outcome is Outcome.ROLLED_BACK, "its rollout telling of it")
    _look_at(world, bad.rollout_id)


def _look_at(world: World, rollout_id: str) -> None:
    """The same as a person and a machine are shown it."""
    seen = _edgeloop("rollout", "watch", rollout_id, "--operator", str(world.folder / "operator.json"))
    assert (seen.returncode, "1 rolled back" in seen.stdout, "by hand" in seen.stdout) == (0, True, True), seen
    told = _edgeloop("rollout", "watch", rollout_id, "--operator", str(world.folder / "operator.json"), "--json")
    (line,) = [msgspec.json.decode(one) for one in told.stdout.splitlines()]
    assert (line["state"], line["counts"], line["changed"][0]["device_id"]) == ("completed", {"rolled_back": 1}, "cam")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        pytest.param(dark, "crashed while answering: SIGFPE", id="crashes"),
        pytest.param(waiting, "did not answer within 10 s and was stopped", id="hangs"),
    ],
)
def test_model_that_dies_while_it_answers_is_left_and_no_reading_is_lost(
    world: World, model: Callable[[], bytes], said: str
) -> None:
    starts, before, frames = world.starts, len(world.readings()), world.frames
    with world.dark_now_and_then():
        view = world.begin(make_parts().with_model(model()))
        device = world.end(view)
        assert device.outcome is Outcome.ROLLED_BACK, device.reason
        assert said in device.reason
        # It is not taken again, and the old version stands black pictures.
        device = world.end(world.begin_again(view.bundle))
        assert (device.outcome, "turned down here before" in device.reason) == (Outcome.REFUSED, True)
        shown = world.frames - frames
        until(lambda: len(world.readings(before)) >= shown, "a reading of each picture")
    assert (world.active(), world.starts) == (GOOD, starts), "the agent lived through it"
    # Nominally it is a second at most; what hangs is given ten.
    assert world.longest_gap_ms(before) <= 5 * LONGEST_GAP_MS
    assert len(world.children()) == 1


def test_process_of_a_version_on_watch_that_is_killed_three_times_is_left_for_now(world: World) -> None:
    starts, (old,) = world.starts, [child.pid for child in world.children()]
    view = world.begin(make_parts(weights=quadrant_weights(sharpness=29.0)), NEVER)
    until(lambda: world.active() == view.bundle, "the new version on watch")
    # The old version's process was there before, and shadows it.
    while world.active() == view.bundle:
        for child in world.children():
            if child.pid != old:
                child.kill()
        time.sleep(0.05)
    device = world.end(view)
    assert (device.outcome, "killed 3 times while it was on watch" in device.reason) == (Outcome.ROLLED_BACK, True)
    assert (world.active(), world.starts) == (GOOD, starts)
    # For now: it may come again.
    again = world.begin_again(view.bundle)
    assert world.end(again).outcome is Outcome.CONFIRMED
    assert _edgeloop("device", "rollback", "--dir", str(world.folder / "device")).returncode == 0
    until(lambda: world.active() == GOOD, "the cloud hearing of it")


def test_trusted_version_whose_process_is_killed_answers_again_and_stays(world: World) -> None:
    starts, before = world.starts, len(world.readings())
    (child,) = world.children()
    first = world.frames + 1  # the one before may be half written
    child.kill()
    until(lambda: {one.pid for one in world.children()} - {child.pid}, "another process")
    pictures = {f"{index:06}.png" for index in range(first, world.frames + RATE_HZ)}
    until(lambda: pictures <= {row.reading.source for row in world.readings(before)}, "a reading of each picture")
    assert (world.active(), world.starts) == (GOOD, starts)


def test_agent_that_is_killed_leaves_no_process(world: World) -> None:
    (child,) = world.children()
    starts = world.starts
    assert world.device.handle is not None
    world.device.handle.kill()  # the agent alone, not its group
    until(lambda: not child.is_running(), "the end of its process")
    until(lambda: world.starts > starts and len(world.children()) == 1, "the agent at work again")


def test_segmentation_fault_on_watch_goes_back(world: World) -> None:
    view = world.begin(make_parts(weights=quadrant_weights(sharpness=28.0)), NEVER)
    until(lambda: world.active() == view.bundle, "the new version on watch")
    assert world.device.handle is not None
    world.device.handle.send_signal(signal.SIGSEGV)
    device = world.end(view)
    assert (device.outcome, "Segmentation fault" in device.reason) == (Outcome.ROLLED_BACK, True)
    assert world.active() == GOOD


def _edgeloop(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "edgeloop", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def until(is_true: Callable[[], bool], what: str) -> None:
    """Look again and again, with an end."""
    until_s = time.monotonic() + WITHIN_S
    while not is_true():
        if time.monotonic() > until_s:
            raise AssertionError(f"{what} did not come about within {WITHIN_S:.0f} s")
        time.sleep(0.05)
