"""Carries rollouts forward: asks `rollout.decide`, writes what it says, wakes the devices concerned."""

import asyncio
import time
from collections.abc import Callable

import msgspec
import sqlalchemy as sa
import structlog

from edgeloop.cloud.rollout import Abort, Complete, Member, NextWave, decide, order_devices, wave_sizes
from edgeloop.cloud.store import fleet, registry, rollouts
from edgeloop.cloud.store.analysis import drift
from edgeloop.cloud.store.database import Database
from edgeloop.contracts.api import BundleView, DeviceView, Gate, RolloutRequest, RolloutView
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, Refused
from edgeloop.contracts.messages import Assignment, WatchBounds
from edgeloop.contracts.names import BundleRef
from edgeloop.contracts.states import Kind, RolloutState
from edgeloop.hub.waker import Waker, wait_for_news

_log = structlog.get_logger(__name__)
_DRIFT_WINDOW = 200


class Conductor:
    """The one who changes rollouts. Every change is one transaction; devices are woken after its commit."""

    def __init__(self, database: Database, waker: Waker, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._waker = waker
        self._clock = clock
        self._nudged = asyncio.Event()

    async def start(self, request: RolloutRequest) -> RolloutView:
        """Begin a rollout's first wave. Raises InvalidInput, NotFound, or Refused while another one is at work."""

        def operation(connection: sa.Connection) -> tuple[str, set[str]]:
            return self._start(connection, request)

        rollout_id, woken = await self._database.write(operation)
        self._waker.wake(woken)
        return await self._database.read(lambda connection: rollouts.get_rollout(connection, rollout_id))

    async def abort(self, rollout_id: str, reason: str) -> RolloutView:
        """End a rollout by hand. Raises Refused if it is over."""

        def operation(connection: sa.Connection) -> set[str]:
            view = rollouts.get_rollout(connection, rollout_id)
            if view.state is not RolloutState.RUNNING:
                raise Refused(f"rollout {rollout_id} is {view.state} already")
            return self._abort(connection, view, reason)

        self._waker.wake(await self._database.write(operation))
        return await self._database.read(lambda connection: rollouts.get_rollout(connection, rollout_id))

    def nudge(self) -> None:
        """A device reported something: look at the rollouts soon."""
        self._nudged.set()

    async def run(self, *, tick_s: float) -> None:
        """Look at the rollouts at every nudge and every tick, until cancelled."""
        while True:
            await wait_for_news(self._nudged, tick_s)
            self._nudged.clear()
            try:
                await self.step()
            except EdgeloopError as error:
                _log.error("rollout_step_failed", code=error.code, detail=str(error))
            except Exception as error:  # noqa: BLE001 - the outer guard: rollouts must not stand still for ever
                _log.error("rollout_step_broke", exc_info=error)

    async def step(self) -> None:
        """Take every running rollout as far as it can go now."""
        if not await self._database.read(rollouts.running):
            return
        self._waker.wake(await self._database.write(self._step))

    def _step(self, connection: sa.Connection) -> set[str]:
        woken: set[str] = set()
        for one in rollouts.running(connection):
            woken |= self._carry_on(connection, one)
        return woken

    def _carry_on(self, connection: sa.Connection, one: rollouts.Running) -> set[str]:
        view = one.view
        members = tuple(
            Member(device_id=device.device_id, wave=device.wave, state=device.state, reason=device.reason)
            for device in view.devices
        )
        age_s = self._clock() - one.wave_started_at_s
        decision = decide(members, wave=view.wave, gate=one.gate, wave_age_s=age_s)
        if isinstance(decision, NextWave):
            return self._begin_wave(connection, view, decision.wave, one.gate)
        if isinstance(decision, Abort):
            return self._abort(connection, view, decision.reason)
        if isinstance(decision, Complete):
            rollouts.end_rollout(
                connection, view.rollout_id, RolloutState.COMPLETED, decision.reason, now_s=self._clock()
            )
        return set()

    def _start(self, connection: sa.Connection, request: RolloutRequest) -> tuple[str, set[str]]:
        bundle = registry.get_bundle(connection, BundleRef.parse(request.bundle))
        devices = [view.device_id for view in _group(fleet.list_devices(connection), request.group)]
        busy = {device.device_id for one in rollouts.running(connection) for device in one.view.devices}
        if busy & set(devices):
            raise Refused(
                f"another rollout is at work on {', '.join(sorted(busy & set(devices))[:5])}; wait for its end or "
                "stop it with 'edgeloop rollout abort'"
            )
        order = order_devices(devices, first=request.first)
        sizes = wave_sizes(request.waves, len(order))
        rollout_id = rollouts.add_rollout(
            connection,
            bundle=f"{bundle.name}@{bundle.version}",
            group=request.group,
            gate=request.gate,
            sizes=sizes,
            devices=order,
            now_s=self._clock(),
        )
        view = rollouts.get_rollout(connection, rollout_id)
        return rollout_id, self._begin_wave(connection, view, 1, request.gate)

    def _begin_wave(self, connection: sa.Connection, view: RolloutView, wave: int, gate: Gate) -> set[str]:
        bundle = registry.get_bundle(connection, BundleRef.parse(view.bundle))
        devices = {device.device_id: device for device in fleet.list_devices(connection)}
        drifted = _drifted(connection, devices, gate)
        woken = set()
        for member in view.devices:
            if member.wave == wave:
                bounds = _bounds(gate, is_drifted=member.device_id in drifted)
                self._assign(connection, view.rollout_id, bundle, member.device_id, bounds)
                woken.add(member.device_id)
        rollouts.begin_wave(connection, view.rollout_id, wave, now_s=self._clock())
        return fleet.with_carriers(connection, woken)

    def _assign(
        self, connection: sa.Connection, rollout_id: str, bundle: BundleView, device_id: str, bounds: WatchBounds
    ) -> None:
        before = fleet.assigned(connection, device_id).assignment
        wanted = Assignment(
            generation=0,
            rollout_id=rollout_id,
            bundle=f"{bundle.name}@{bundle.version}",
            manifest_sha256=bundle.manifest_sha256,
            watch=bounds,
        )
        generation = fleet.assign(connection, device_id, wanted, now_s=self._clock())
        text = None if before is None else to_json(before).decode()
        rollouts.note_assigned(connection, rollout_id, device_id, generation=generation, before=text)

    def _abort(self, connection: sa.Connection, view: RolloutView, reason: str) -> set[str]:
        """End it, and want the old version again wherever the new one was not confirmed."""
        confirmed = {device.device_id for device in view.devices if device.state == "confirmed"}
        woken = set()
        for device_id, text in rollouts.befores(connection, view.rollout_id).items():
            if device_id not in confirmed:
                before = None if text is None else from_json(text.encode(), Assignment, what="an assignment")
                fleet.assign(connection, device_id, before, now_s=self._clock())
                woken.add(device_id)
        rollouts.end_rollout(connection, view.rollout_id, RolloutState.ABORTED, reason, now_s=self._clock())
        return fleet.with_carriers(connection, woken)


def _group(devices: list[DeviceView], group: str) -> list[DeviceView]:
    able = [device for device in devices if device.kind is Kind.DEVICE]
    if group != "all":
        label, sign, value = group.partition("=")
        if not sign:
            raise InvalidInput(f"group {group!r} is neither 'all' nor LABEL=VALUE")
        able = [device for device in able if device.labels.get(label) == value]
    if not able:
        raise InvalidInput(f"no device is in group {group!r}; 'edgeloop fleet list' shows devices and labels")
    return able


def _drifted(connection: sa.Connection, devices: dict[str, DeviceView], gate: Gate) -> set[str]:
    """The devices whose input has drifted under what they run; one look for each version that runs."""
    if not gate.spare_drifted:
        return set()
    running = {device.device_id: device.report.active for device in devices.values() if device.report}
    return {
        row.device_id
        for bundle in {one for one in running.values() if one is not None}
        for row in drift(connection, bundle, last=_DRIFT_WINDOW)
        if row.drifted and running.get(row.device_id) == bundle
    }


def _bounds(gate: Gate, *, is_drifted: bool) -> WatchBounds:
    """The gate's bounds; a device whose input drifted is expected to disagree with the version that drift hurt."""
    return msgspec.structs.replace(gate.watch, max_disagreement=None) if is_drifted else gate.watch
