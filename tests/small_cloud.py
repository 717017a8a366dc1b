"""A real cloud without a server or a loop: stores on disk, hub and conductor as objects, a clock that a test moves.

template = found_template(folder)           once a session, since founding makes keys and migrates
cloud = SmallCloud(template, tmp_path)      a cloud of the test's own; close() it
"""

import asyncio
import itertools
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from litestar import Litestar

from builders import LABELS, Parts, as_bundle, make_parts, quadrant_images
from edgeloop.cloud import publish as publishing
from edgeloop.cloud.app import open_stores
from edgeloop.cloud.conductor import Conductor
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.cloud.hub import CloudHub
from edgeloop.cloud.store import fleet, registry, roots
from edgeloop.contracts.api import BundleView, JoinTokenRequest, PublishRequest
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.join import enrol_statement, fresh_statement
from edgeloop.contracts.messages import (
    Alert,
    Assignment,
    DeviceReport,
    EnrolRequest,
    Event,
    Profile,
    Reading,
    Sample,
    UpdateReport,
)
from edgeloop.contracts.prediction import Prediction, Scored
from edgeloop.contracts.states import Kind, Reason, UpdateState
from edgeloop.hub.proof import ProofChecker
from edgeloop.hub.routes import error_handlers, hub_router
from edgeloop.hub.waker import Waker
from edgeloop.runtime.input.images import encode_png
from edgeloop.toolchain.publish import sign_targets

_ASKED = itertools.count()
PROFILE = Profile(
    architecture="x86_64", system="Linux", cpu_count=1, memory_bytes=1_000_000, engines={}, edgeloop="0.1.0"
)
START_S = 1_800_000_000.0
"""What a SmallCloud's clock says at first."""


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_s: float = START_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Seconds since 1970."""
        return self.now_s


def found_template(folder: Path) -> Path:
    """A founded cloud to copy from."""
    found(CloudConfig(folder=folder / "cloud"), keys=folder / "keys", url="http://cloud.test")
    return folder


class SmallCloud:
    """A founded cloud, opened."""

    def __init__(self, template: Path, folder: Path) -> None:
        shutil.copytree(template, folder, dirs_exist_ok=True)
        self.clock = Clock()
        self.config = CloudConfig(folder=folder / "cloud")
        self.targets_key = folder / "keys" / "targets.pem"
        self.stores = open_stores(self.config)
        self.database = self.stores.database
        self.waker = Waker()
        self.conductor = Conductor(self.database, self.waker, clock=self.clock)
        self.hub = CloudHub(self.stores, self.conductor, self.waker, clock=self.clock)
        self.app = Litestar(
            route_handlers=[hub_router(self.hub, ProofChecker())],
            exception_handlers=error_handlers(),
            openapi_config=None,
            logging_config=None,
        )

    def close(self) -> None:
        """Close what is open."""
        self.waker.release()
        self.database.close()

    @property
    def roots(self) -> roots.Roots:
        """All roots of trust."""
        return self.database.read_now(roots.read_roots)

    def join_secret(self, *, uses: int = 1, valid_s: float = 3600.0, labels: dict[str, str] | None = None) -> str:
        """The secret of a new join token, made now by this cloud's clock."""
        request = JoinTokenRequest(uses=uses, valid_s=valid_s, labels=labels or {})
        return self.database.write_now(lambda c: fleet.make_join_token(c, request, now_s=self.clock()))

    def enrol(
        self, *names: str, via: str | None = None, kind: Kind = Kind.DEVICE, labels: dict[str, str] | None = None
    ) -> None:
        """Enrol devices with keys of their own."""
        for name in names:
            request = enrol_request(name, self.join_secret(labels=labels), via=via, kind=kind)
            self.database.write_now(lambda c, request=request: fleet.enrol(c, request, now_s=self.clock()))

    async def hand_over(self, parts: Parts) -> None:
        """Put the bundle's files where publishing wants them."""
        for sha256, data in parts.files.items():
            await publishing.take_file(self.stores, sha256, data)

    def sign(self, parts: Parts, *, key: Path | None = None) -> PublishRequest:
        """What a publisher who has the targets key (or another) sends."""
        current = self.database.read_now(registry.newest_targets)
        signed = sign_targets(current.metadata, as_bundle(parts), key or self.targets_key)
        return PublishRequest(manifest=to_json(parts.manifest), targets_metadata=signed)

    async def publish(self, version: str = "1.0.0") -> BundleView:
        """Publish the tiny bundle."""
        parts = make_parts(version=version)
        await self.hand_over(parts)
        return await publishing.publish(self.stores, self.sign(parts), now_s=self.clock())

    async def assign(self, device_id: str, bundle: str = "tiny@1.0.0", *, manifest_sha256: str = "0" * 64) -> int:
        """Give a device something to run and wake it; returns the generation."""
        wanted = Assignment(generation=0, rollout_id="r", bundle=bundle, manifest_sha256=manifest_sha256)

        def operation(connection: sa.Connection) -> tuple[int, set[str]]:
            generation = fleet.assign(connection, device_id, wanted, now_s=self.clock())
            return generation, fleet.with_carriers(connection, {device_id})

        generation, concerned = await self.database.write(operation)
        self.waker.wake(concerned)
        return generation

    def assigned(self, device_id: str) -> Assignment | None:
        """What a device was given last."""
        return self.database.read_now(lambda c: fleet.assigned(c, device_id)).assignment


# ---- messages


def key_of(name: str, *, number: int = 0) -> Ed25519PrivateKey:
    """A device's key, the same each time."""
    return Ed25519PrivateKey.from_private_bytes(f"{name}.{number}".encode().ljust(32, b"."))


def public_key_of(name: str, *, number: int = 0) -> bytes:
    """Its public half."""
    return key_of(name, number=number).public_key().public_bytes_raw()


def enrol_request(
    name: str, secret: str, *, key_number: int = 0, via: str | None = None, kind: Kind = Kind.DEVICE
) -> EnrolRequest:
    """A device's request to be let in, made now, after all others, and signed by the key that it brings."""
    key = key_of(name, number=key_number)
    public_key = key.public_key().public_bytes_raw()
    made_at_ms = int(time.time() * 1000) + next(_ASKED)
    return EnrolRequest(
        device_id=name,
        kind=kind,
        join_secret=secret,
        public_key=public_key,
        profile=PROFILE,
        possession=key.sign(enrol_statement(name, secret, public_key)),
        made_at_ms=made_at_ms,
        fresh=key.sign(fresh_statement(name, secret, public_key, made_at_ms)),
        via=via,
    )


def report(
    name: str, known_generation: int = 0, *, active: str | None = None, update: UpdateReport | None = None
) -> DeviceReport:
    """What a device says of itself."""
    return DeviceReport(device_id=name, known_generation=known_generation, active=active, update=update)


def update_report(assignment: Assignment, state: UpdateState, *, reason: str = "") -> UpdateReport:
    """How a device does with what it was assigned."""
    return UpdateReport(
        generation=assignment.generation,
        rollout_id=assignment.rollout_id,
        bundle=assignment.bundle,
        state=state,
        reason=reason,
    )


def reading(
    label: str | None = LABELS[0],
    *,
    margin: float = 0.9,
    novelty: float | None = None,
    energy_z: float | None = None,
    bundle: str = "tiny@1.0.0",
) -> Reading:
    """One thing seen."""
    made = Prediction(
        label=label,
        score=0.95,
        margin=margin,
        top=(Scored(LABELS[0], 0.95),),
        latency_ms=1.0,
        bundle=bundle,
        engine="onnxruntime",
        precision="float32",
        novelty=novelty,
        energy_z=energy_z,
    )
    return Reading(source="frame.png", prediction=made)


def sample(data: bytes = b"pixels", *, reason: Reason = Reason.UNSURE, media: str = "image/png") -> Sample:
    """An input worth sending."""
    return Sample(source="frame.png", reason=reason, media=media, data=data)


def event(
    sequence: int,
    body: Reading | Sample | Alert | None = None,
    *,
    device_id: str = "camera-1",
    epoch: int = 7,
    at_ms: int | None = None,
) -> Event:
    """One row of an outbox; at_ms follows the sequence unless given."""
    return Event(
        device_id=device_id,
        epoch=epoch,
        sequence=sequence,
        at_ms=sequence * 1000 if at_ms is None else at_ms,
        body=reading() if body is None else body,
    )


def picture(index: int = 0) -> bytes:
    """A PNG whose brightest quadrant is LABELS[index % 4]."""
    return encode_png(quadrant_images(index + 1)[index])


async def until(is_true: Callable[[], Awaitable[bool]], what: str, *, timeout_s: float = 10.0) -> None:
    """Look again and again, with an end."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await is_true():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"{what} did not come about within {timeout_s:.0f} s") from None
