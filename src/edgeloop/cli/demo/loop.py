"""The ten steps, over real processes. Figures are collected afterwards, see `evidence`."""

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgeloop.cli.demo.camera import Camera, drifted
from edgeloop.cli.demo.damage import write_damaged
from edgeloop.cli.demo.evidence import Evidence, collect
from edgeloop.cli.demo.fleet import Fleet
from edgeloop.cli.demo.report import Report
from edgeloop.cli.demo.steps import Steps
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.contracts.api import (
    Gate,
    JobRequest,
    JobView,
    JoinTokenRequest,
    LabelRequest,
    RolloutRequest,
    RolloutView,
    SampleView,
)
from edgeloop.contracts.errors import Refused, Unavailable
from edgeloop.contracts.messages import WatchBounds
from edgeloop.contracts.states import JobState, RolloutState, UpdateState
from edgeloop.toolchain.data.dataset import Dataset, Part
from edgeloop.toolchain.data.digits import BUNDLED, KERAS
from edgeloop.toolchain.data.open import open_dataset
from edgeloop.toolchain.publish import publish
from edgeloop.transport.cloud_api import CloudApi, Operator, read_operator

V1, V2, V3 = "digits@1.0.0", "digits@2.0.0", "digits@3.0.0"
NODE = "gateway"
MOST_LABELS = 150
_RATE_HZ = 20.0
_LATER_FRAMES = 100
_AWAY_S = 4.0
_POLL_S = 0.15
_WATCH_READINGS = 40


class Loop:
    """Runs the steps in order."""

    def __init__(self, folder: Path, fleet: Fleet, steps: Steps, *, data: str, seed: int) -> None:
        self._folder = folder
        self._fleet = fleet
        self._steps = steps
        self._source = data
        self._seed = seed
        self._lent = () if data in (BUNDLED, KERAS) else ("--data", str(Path(data).resolve()))
        source = self._lent[-1] if self._lent else data
        self._recipe: dict[str, str | int | float | bool] = {"source": source, "seed": seed}

    def run(self) -> Report:
        """All of it. Raises edgeloop's errors if a step cannot be done."""
        with self._steps.step("set up: cloud, keys, real digits"):
            dataset = open_dataset("digits", source=self._source, seed=self._seed)
            operator = self._found_cloud()
            cameras = self._cameras(dataset)
            self._steps.done(
                f"{len(dataset.fit):,} digits to learn from, {len(dataset.holdout):,} held out, "
                f"{sum(len(c.now) + len(c.later) for c in cameras):,} for four cameras"
            )
        with CloudApi(operator) as api:
            return self._go(api, dataset, cameras)

    def _go(self, api: CloudApi, dataset: Dataset, cameras: list[Camera]) -> Report:
        first = self._make_first(api, cameras)
        self._deliver(api, first, V1, cameras)
        away = self._run_without_cloud(api, cameras, dataset.label_names)
        drift_seen = self._learn_what_came_up(api, cameras)
        labels = self._label(api, cameras)
        second = self._retrain(api)
        self._deliver_second(api, second, cameras, dataset.label_names)
        self._offer_bad(api, second)
        with self._steps.step("10 collect the figures from outboxes and cloud"):
            evidence = Evidence(
                folder=self._folder,
                bundles={V1: first, V2: second},
                holdout=dataset.holdout,
                labels=dataset.label_names,
                away_ms=away,
                labels_used=labels,
                drift_seen=drift_seen,
                seed=self._seed,
            )
            return collect(api, cameras, evidence, tell=self._steps.tell)

    # ---- setting up

    def _found_cloud(self) -> Operator:
        config = CloudConfig(folder=self._folder / "cloud")
        found(config, keys=self._folder / "keys", url="http://127.0.0.1:0")
        said = self._fleet.start("cloud", "cloud", "serve", "--dir", str(config.folder), "--port", "0")
        self._cloud_port = said["url"].rpartition(":")[2]
        path = config.folder / "operator.json"
        operator = msgspec.structs.replace(read_operator(path), url=said["url"])
        path.write_bytes(msgspec.json.encode(operator))
        return operator

    def _cameras(self, dataset: Dataset) -> list[Camera]:
        """Four cameras, each with digits of its own: most to see now, some for after the second version."""
        plan = (
            ("camera-1", "node", "litert", False),
            ("camera-2", "node", "litert", True),
            ("camera-3", "node", "onnxruntime", False),
            ("camera-4", "cloud", "litert", False),
        )
        share = len(dataset.field) // len(plan)
        cameras = []
        for index, (device_id, via, engine, is_drifted) in enumerate(plan):
            images = dataset.field.inputs[index * share : (index + 1) * share]
            labels = dataset.field.labels[index * share : (index + 1) * share]
            seen = drifted(images, seed=self._seed + index) if is_drifted else images
            spool = self._folder / device_id / "spool"
            spool.mkdir(parents=True)
            now = min(len(seen) - _LATER_FRAMES, 400)
            part, later = Part(seen[:now], labels[:now]), Part(seen[-_LATER_FRAMES:], labels[-_LATER_FRAMES:])
            cameras.append(Camera(device_id, via, engine, is_drifted, spool, part, later))
        return cameras

    def _start_devices(self, api: CloudApi, cameras: list[Camera]) -> None:
        cloud_url = f"http://127.0.0.1:{self._cloud_port}"
        token = api.make_join_token(JoinTokenRequest(uses=1 + len(cameras))).token
        node_dir = str(self._folder / NODE)
        join = ("--join", token, "--longest-backoff-s", "1")
        node = self._fleet.start(
            NODE, "node", "run", "--dir", node_dir, "--hub", cloud_url, "--id", NODE, "--port", "0", *join
        )
        for camera in cameras:
            hub = node["url"] if camera.via == "node" else cloud_url
            place = ("--dir", str(self._folder / camera.device_id), "--source", str(camera.spool))
            settings = ("--engine", camera.engine, "--rate-hz", str(_RATE_HZ), "--seed", str(self._seed))
            self._fleet.launch(
                camera.device_id, "device", "run", "--id", camera.device_id, "--hub", hub, *place, *settings, *join
            )
        for camera in cameras:
            self._fleet.wait_ready(camera.device_id)

    # ---- steps 1 to 3

    def _make_first(self, api: CloudApi, cameras: list[Camera]) -> Path:
        with self._steps.step("1-2 train, quantize, convert, prove (worker); meanwhile start node and devices"):
            operator = str(self._folder / "cloud" / "operator.json")
            self._fleet.start("worker", "worker", "run", "--operator", operator, *self._lent)
            job = api.submit_job(JobRequest(kind="train", bundle=V1, recipe=self._recipe))
            self._start_devices(api, cameras)
            return self._finished(api, job)

    def _deliver(self, api: CloudApi, bundle: Path, version: str, cameras: list[Camera]) -> None:
        with self._steps.step("3 sign, publish and roll out v1 in two waves"):
            labels = load_names(bundle)
            for camera in cameras:
                camera.show(camera.first_half, labels, prefix="a")
            publish(bundle, api, targets_key=self._folder / "keys" / "targets.pem")
            request = RolloutRequest(bundle=version, waves=("1", "100%"), gate=_gate(max_disagreement=None))
            view = self._rolled_out(api, api.start_rollout(request))
            self._steps.done(view.reason)
            if view.state is not RolloutState.COMPLETED:
                raise Refused(f"rollout of {version} was {view.state}: {view.reason}")

    # ---- steps 4 to 7

    def _run_without_cloud(self, api: CloudApi, cameras: list[Camera], labels: tuple[str, ...]) -> tuple[int, int]:
        """Let the cameras run, kill the cloud in the middle, bring it back; returns when it was away."""
        expected = {camera.device_id: len(camera.now) for camera in cameras}
        with self._steps.step("4-6 run the devices; kill the cloud with SIGKILL, and bring it back"):
            for camera in cameras:
                camera.show(camera.second_half, labels, prefix="b")
            self._until(lambda: self._read_share(api, expected, upto=0.4), "the cameras to be under way")
            killed_ms = _now_ms()
            self._fleet.kill("cloud")
            for tenth in range(10):
                time.sleep(_AWAY_S / 10)
                self._steps.tell(0.4 + 0.02 * tenth, "the cloud is dead; devices go on")
            self._fleet.start(
                "cloud", "cloud", "serve", "--dir", str(self._folder / "cloud"), "--port", self._cloud_port
            )
            back_ms = _now_ms()
            self._until(lambda: self._read_share(api, expected, upto=1.0), "every reading to reach the cloud")
            self._steps.done(f"the cloud was away for {(back_ms - killed_ms) / 1000:.1f} s")
            return killed_ms, back_ms

    def _read_share(self, api: CloudApi, expected: dict[str, int], *, upto: float) -> bool:
        """True when the cloud holds this share of all expected readings."""
        have = dict.fromkeys(expected, 0)
        for row in api.event_counts():
            if row.device_id in have:
                have[row.device_id] += row.readings
        share = sum(min(have[name], expected[name]) for name in expected) / sum(expected.values())
        self._steps.tell(share, f"{sum(have.values()):,} readings in the cloud")
        return share >= upto

    def _learn_what_came_up(self, api: CloudApi, cameras: list[Camera]) -> set[str]:
        with self._steps.step("7 who has drifted, by the cloud's analysis"):
            drifted_ids = {row.device_id: row.why for row in api.drift(V1) if row.drifted}
            self._steps.done("; ".join(f"{name}: {why}" for name, why in drifted_ids.items()) or "nobody")
            return set(drifted_ids)

    def _label(self, api: CloudApi, cameras: list[Camera]) -> int:
        """Label as a person would, the drifted device's samples first, through the API that a person's tool uses."""
        with self._steps.step("7 label what is worth it"):
            truth = {camera.device_id: camera.truth for camera in cameras}
            drifted_ids = {row.device_id for row in api.drift(V1) if row.drifted}
            chosen = _most_telling(api.samples(labelled=False, limit=5000), drifted_ids)[:MOST_LABELS]
            for index, sample in enumerate(chosen):
                label = truth[sample.device_id][sample.source]
                api.label(sample.sample_id, LabelRequest(label=label, by="demo"))
                self._steps.tell((index + 1) / len(chosen))
            self._steps.done(f"{len(chosen)} labels")
            return len(chosen)

    def _retrain(self, api: CloudApi) -> Path:
        with self._steps.step("7 retrain on old and new data, convert and prove v2 (worker)"):
            request = JobRequest(kind="retrain", bundle=V2, parent=V1, recipe=self._recipe)
            return self._finished(api, api.submit_job(request))

    # ---- steps 8 and 9

    def _deliver_second(self, api: CloudApi, bundle: Path, cameras: list[Camera], labels: tuple[str, ...]) -> None:
        """Roll v2 out while the cameras go on: each new version runs beside the old one before it is trusted."""
        with self._steps.step("8 publish v2 and roll it out behind a gate"):
            publish(bundle, api, targets_key=self._folder / "keys" / "targets.pem")
            first = next(camera for camera in cameras if not camera.is_drifted)
            request = RolloutRequest(
                bundle=V2, waves=("1", "100%"), first=(first.device_id,), gate=_gate(max_disagreement=0.2)
            )
            view = api.start_rollout(request)
            waiting = {camera.device_id: camera for camera in cameras}

            def go_on_where_v2_is_on_watch() -> None:
                """The cameras go on once v2 runs beside v1, so that there is something to compare."""
                for device in api.devices():
                    update = device.report.update if device.report else None
                    if update and update.bundle == V2 and update.state is UpdateState.ACTIVE:
                        camera = waiting.pop(device.device_id, None)
                        if camera is not None:
                            camera.show(camera.later, labels, prefix="c")

            ended = self._rolled_out(api, view, meanwhile=go_on_where_v2_is_on_watch)
            self._steps.done(ended.reason)
            expected = {camera.device_id: len(camera.truth) for camera in cameras}
            self._until(lambda: self._read_share(api, expected, upto=1.0), "every reading to reach the cloud")

    def _offer_bad(self, api: CloudApi, good: Path) -> None:
        with self._steps.step("9 offer a bad v3: well signed, damaged weights"):
            bad = self._folder / "digits-3.0.0.edgeloop"
            write_damaged(good, bad, version="3.0.0")
            publish(bad, api, targets_key=self._folder / "keys" / "targets.pem")
            request = RolloutRequest(bundle=V3, waves=("1", "100%"), gate=_gate(max_disagreement=0.2))
            view = self._rolled_out(api, api.start_rollout(request))
            refused = [device for device in view.devices if device.state is UpdateState.REFUSED]
            self._steps.done(f"{view.state}; refused by {', '.join(d.device_id for d in refused) or 'nobody'}")
            time.sleep(1.0)

    # ---- waiting

    def _finished(self, api: CloudApi, job: JobView) -> Path:
        """Wait for a job, and bring its bundle here. Raises Refused if the job failed."""

        def is_over() -> bool:
            nonlocal job
            job = api.job(job.job_id)
            self._steps.tell(job.progress, job.message)
            return job.state in (JobState.DONE, JobState.FAILED)

        self._until(is_over, f"the job {job.kind} {job.bundle}", timeout_s=600)
        if job.state is JobState.FAILED:
            raise Refused(f"the worker could not {job.kind}: {job.message}")
        path = self._folder / f"{job.bundle.replace('@', '-')}.edgeloop"
        path.write_bytes(api.artifact(job.job_id, "bundle.edgeloop"))
        self._steps.done(f"float model {100 * float(job.report['accuracy_float']):.1f} % right on held-out digits")
        return path

    def _rolled_out(
        self, api: CloudApi, view: RolloutView, *, meanwhile: Callable[[], None] = lambda: None
    ) -> RolloutView:
        def is_over() -> bool:
            nonlocal view
            meanwhile()
            view = api.rollout(view.rollout_id)
            ended = sum(device.state is not None and device.state.is_final for device in view.devices)
            states = ", ".join(f"{device.device_id} {device.state or 'waits'}" for device in view.devices)
            self._steps.tell(ended / len(view.devices), states)
            return view.state.is_final

        self._until(is_over, f"the rollout of {view.bundle}")
        return view

    def _until(self, is_done: Callable[[], bool], what: str, *, timeout_s: float = 120.0) -> None:
        """Wait with an end. Raises Unavailable when it does not come."""
        until_s = time.monotonic() + timeout_s
        while not is_done():
            self._fleet.check_alive()
            if time.monotonic() > until_s:
                raise Unavailable(f"waited {timeout_s:.0f} s for {what}; the logs say more")
            time.sleep(_POLL_S)


def _most_telling(samples: list[SampleView], drifted_ids: set[str]) -> list[SampleView]:
    """The order in which a person would look: drifted devices first, then the least sure."""
    return sorted(samples, key=lambda sample: (sample.device_id not in drifted_ids, sample.margin))


def _gate(*, max_disagreement: float | None) -> Gate:
    watch = WatchBounds(min_readings=_WATCH_READINGS, max_disagreement=max_disagreement, deadline_s=60.0)
    return Gate(wave_deadline_s=90.0, watch=watch)


def load_names(bundle: Path) -> tuple[str, ...]:
    """A bundle's labels."""
    from edgeloop.bundle.archive import open_bundle

    return open_bundle(bundle).manifest.labels


def _now_ms() -> int:
    return int(time.time() * 1000)
