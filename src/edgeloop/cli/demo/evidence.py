"""From outboxes, the cloud's store and replayed held-out digits to the demo's figures."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeloop.bundle.archive import Bundle, open_bundle
from edgeloop.cli.demo.camera import Camera, drifted
from edgeloop.cli.demo.report import Claim, DeviceRow, Report, RolloutRow, VersionRow
from edgeloop.contracts.api import DeviceView, ReadingView, RolloutView
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.contracts.messages import Event, Reading
from edgeloop.contracts.states import RolloutState, UpdateState
from edgeloop.device.agent import open_outbox
from edgeloop.runtime.predictor import Predictor
from edgeloop.toolchain.data.dataset import Part
from edgeloop.transport.cloud_api import CloudApi

_PAGE = 1000
_MOST_POINTS_LOST = 1.0
_HOLDOUT_SEED = 10_007


@dataclass(frozen=True)
class Evidence:
    """What the run knows beyond outboxes and cloud. bundles: v1 and v2, in this order. away_ms: from, to."""

    folder: Path
    bundles: dict[str, Path]
    holdout: Part
    labels: tuple[str, ...]
    away_ms: tuple[int, int]
    labels_used: int
    drift_seen: set[str]
    seed: int


def collect(api: CloudApi, cameras: list[Camera], known: Evidence, *, tell: Callable[[float, str], None]) -> Report:
    """Read everything and count."""
    bundles = {name: open_bundle(path) for name, path in known.bundles.items()}
    fleet = {view.device_id: view for view in api.devices()}
    rows = []
    for index, camera in enumerate(cameras):
        tell(index / len(cameras), f"replaying held-out digits through {camera.device_id}")
        rows.append(_device_row(api, camera, fleet[camera.device_id], bundles, known))
    rollouts = api.rollouts()
    versions = tuple(_version_row(bundle) for bundle in bundles.values())
    return Report(
        versions=versions,
        devices=tuple(rows),
        rollouts=tuple(
            RolloutRow(version=view.bundle, waves=view.waves, outcome=view.state, reason=view.reason)
            for view in rollouts
        ),
        labels_used=known.labels_used,
        claims=_claims(rows, rollouts, fleet, known),
        cloud_away_s=(known.away_ms[1] - known.away_ms[0]) / 1000,
    )


def _version_row(bundle: Bundle) -> VersionRow:
    by_precision = {(v.engine, v.precision): v for v in bundle.manifest.variants}
    as_float = by_precision[EngineName.LITERT, Precision.FLOAT32]
    as_int8 = by_precision[EngineName.LITERT, Precision.INT8]
    assert as_float.measured is not None
    assert as_int8.measured is not None
    return VersionRow(
        name=str(bundle.manifest.ref),
        accuracy_float=as_float.measured.share_right,
        accuracy=as_int8.measured.share_right,
        size_float_bytes=as_float.size_bytes,
        size_bytes=as_int8.size_bytes,
        latency_p50_ms=as_int8.measured.latency_p50_ms,
        latency_p99_ms=as_int8.measured.latency_p99_ms,
        parent=bundle.manifest.lineage.parent,
    )


def _device_row(
    api: CloudApi, camera: Camera, view: DeviceView, bundles: dict[str, Bundle], known: Evidence
) -> DeviceRow:
    outbox = open_outbox(known.folder / camera.device_id, camera.device_id)
    own = [event for event in outbox.events() if isinstance(event.body, Reading)]
    outbox.close()
    in_cloud = _readings(api, camera.device_id)
    samples = api.samples(device_id=camera.device_id, limit=10_000)
    latency_ms = [event.body.prediction.latency_ms for event in own if isinstance(event.body, Reading)]
    engine = (view.report.engine if view.report else None) or "none"
    before, after = (_accuracy(bundle, engine, camera, known) for bundle in bundles.values())
    return DeviceRow(
        id=camera.device_id,
        via=view.via or "cloud",
        drifted=camera.is_drifted,
        drift_seen=camera.device_id in known.drift_seen,
        engine=engine,
        readings=len(own),
        offline_readings=sum(known.away_ms[0] <= event.at_ms < known.away_ms[1] for event in own),
        lost=_lost(own, in_cloud),
        duplicated=_duplicated(in_cloud),
        accuracy_before=before,
        accuracy_after=after,
        latency_p50_ms=float(np.percentile(latency_ms, 50)),
        latency_p99_ms=float(np.percentile(latency_ms, 99)),
        samples_up=len(samples),
        bytes_up=sum(sample.size_bytes for sample in samples),
        bytes_if_all=sum(camera.sizes[event.body.source] for event in own if isinstance(event.body, Reading)),
    )


def _readings(api: CloudApi, device_id: str) -> list[ReadingView]:
    found: list[ReadingView] = []
    while page := api.readings(device_id, after=len(found), limit=_PAGE):
        found += page
    return found


def _lost(own: list[Event], in_cloud: list[ReadingView]) -> int:
    """Readings of the device's outbox that the cloud does not have, or has otherwise."""
    there = {(row.epoch, row.sequence): row.reading for row in in_cloud}
    return sum(there.get((event.epoch, event.sequence)) != event.body for event in own)


def _duplicated(in_cloud: list[ReadingView]) -> int:
    """Readings beyond the first of the same frame: each frame is read once, whatever keys the rows bear."""
    frames = Counter(row.reading.source for row in in_cloud)
    return sum(count - 1 for count in frames.values())


def _accuracy(bundle: Bundle, engine: str, camera: Camera, known: Evidence) -> float:
    """Share right of held-out digits, seen through the device's camera, on the variant that it runs."""
    variant = next(v for v in bundle.manifest.variants if f"{v.engine} {v.precision}" == engine)
    images = known.holdout.inputs
    if camera.is_drifted:
        images = drifted(images, seed=known.seed + _HOLDOUT_SEED)
    predictor = Predictor(bundle, variant)
    scores = np.stack([predictor.basis(image) for image in images])
    predictor.close()
    return float((scores.argmax(axis=1) == known.holdout.labels).mean())


def _claims(
    rows: list[DeviceRow], rollouts: list[RolloutView], fleet: dict[str, DeviceView], known: Evidence
) -> tuple[Claim, ...]:
    v2 = list(known.bundles)[1]
    outcomes = {view.bundle: view for view in rollouts}
    bad = rollouts[-1]
    refused = [device for device in bad.devices if device.state is UpdateState.REFUSED]
    wrong, right = [row for row in rows if row.drifted], [row for row in rows if not row.drifted]
    bytes_up, bytes_all = sum(row.bytes_up for row in rows), sum(row.bytes_if_all for row in rows)
    running = {view.report.active for name, view in fleet.items() if name in {row.id for row in rows} and view.report}
    gain = min(100 * (row.accuracy_after - row.accuracy_before) for row in wrong)
    drop = max(100 * (row.accuracy_before - row.accuracy_after) for row in right)
    clean = float(np.mean([row.accuracy_before for row in right]))
    cost = min(100 * (clean - row.accuracy_before) for row in wrong)
    lost, doubled = sum(row.lost for row in rows), sum(row.duplicated for row in rows)
    compared = [device for device in outcomes[v2].devices if "differ from the old version" in device.reason]
    offline = min(row.offline_readings for row in rows)
    largest_share = max(row.bytes_up / row.bytes_if_all for row in rows)

    def claim(text: str, value: str, *, held: bool) -> Claim:
        return Claim(claim=text, value=value, held=held)

    return (
        claim(
            "v1 and v2 were rolled out to every device",
            _outcomes(rollouts[:-1]),
            held=all(view.state is RolloutState.COMPLETED for view in rollouts[:-1]),
        ),
        claim("the drift costs v1 at least 15 points", f"{cost:.1f} points", held=cost >= 15),
        claim("every device went on while the cloud was dead", f"at least {offline} readings", held=offline > 0),
        claim(
            "every reading is in the cloud exactly once", f"{lost} lost, {doubled} doubled", held=lost + doubled == 0
        ),
        claim(
            "at most 15 % of sample bytes went up",
            f"{bytes_up / bytes_all:.1%} in all, {largest_share:.1%} at most",
            held=largest_share <= 0.15,
        ),
        claim(
            "the cloud saw which device drifted",
            ", ".join(sorted(known.drift_seen)) or "none",
            held=known.drift_seen == {row.id for row in wrong},
        ),
        claim("at most 150 labels", str(known.labels_used), held=0 < known.labels_used <= 150),
        claim("v2 gains at least 10 points on the drifted device", f"{gain:+.1f} points", held=gain >= 10),
        claim(
            "v2 was compared with v1 on every device before it was trusted",
            f"{len(compared)} of {len(rows)} devices",
            held=len(compared) == len(rows),
        ),
        claim(
            "v2 costs no other device more than 1 point",
            f"{-drop:+.1f} points at worst",
            held=round(drop, 6) <= _MOST_POINTS_LOST,
        ),
        claim(
            "the bad v3 was refused before activation, its rollout aborted",
            bad.reason,
            held=bad.state is RolloutState.ABORTED and len(refused) == 1,
        ),
        claim(
            "v2 still runs everywhere",
            ", ".join(sorted(str(one) for one in running)),
            held=running == {v2} and outcomes[v2].state is RolloutState.COMPLETED,
        ),
    )


def _outcomes(views: list[RolloutView]) -> str:
    return ", ".join(f"{view.bundle} {view.state}" for view in views)
