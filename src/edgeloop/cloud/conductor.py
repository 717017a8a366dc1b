"""Carries rollouts forward: asks `rollout.decide`, writes what it says, wakes the devices concerned.

What is to be done is found out in a read, since most looks find nothing; it is found out again in the write that does
it. Whose input has drifted is found out in the read alone, as it goes over many readings: in the write, a device that
was not looked at waits for the next look.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

import msgspec
import sqlalchemy as sa
import structlog

from edgeloop.cloud.listening import Listening
from edgeloop.cloud.rollout import (
    UNLABELLED,
    Abort,
    Complete,
    Decision,
    Give,
    Hold,
    Labelled,
    Member,
    NextWave,
    Stage,
    Waited,
    decide,
    labels_of,
    order_devices,
    unreachable,
    wave_sizes,
)
from edgeloop.cloud.store import fleet, registry, rollouts
from edgeloop.cloud.store.analysis import drifting, labelled_samples
from edgeloop.cloud.store.database import Database
from edgeloop.contracts.api import AbortRequest, DeviceView, Gate, RolloutRequest, RolloutView
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, Refused
from edgeloop.contracts.messages import Assignment, WatchBounds
from edgeloop.contracts.names import BundleRef
from edgeloop.contracts.states import Kind, Outcome, RolloutState, UpdateState
from edgeloop.hub.waker import News, Waker

_log = structlog.get_logger(__name__)
_DRIFT_WINDOW = 200
_MOST_ROUNDS = 20
_GIVEN_AT_ONCE = 1000
"""Devices that one write gives a bundle: others' writes wait for it."""
_PATIENCE_S = 2.0
"""For whoever starts, resumes or aborts a rollout: what takes longer goes on by itself."""
_SKEW_S = 60.0
"""By so much replicas' clocks may differ; a time further ahead was written by a clock that was set back since."""
_REST = 4.0
"""Times what a look took: a fleet that reports without a pause leaves the database to others for the most part."""


class _Due(msgspec.Struct, frozen=True):
    """What a look found. drifted: of devices that are to be given a bundle now, whether their input drifted."""

    something: bool
    drifted: dict[str, bool]


class Conductor:
    """The one who changes rollouts. Every change is one transaction; devices are woken after its commit."""

    def __init__(self, database: Database, waker: Waker, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._waker = waker
        self._clock = clock
        self._listening = Listening(clock=clock, ticks=time.monotonic)
        self._nudged = News()
        self._turn = asyncio.Lock()
        self._stepping: set[asyncio.Task[None]] = set()

    async def start(self, request: RolloutRequest) -> RolloutView:
        """Begin a rollout, or queue it where its devices belong to older ones. Raises InvalidInput, NotFound."""

        def operation(connection: sa.Connection) -> tuple[str, set[str]]:
            return self._start(connection, request), self._step(connection, {})[0]

        rollout_id, woken = await self._database.write(operation)
        return await self._done(rollout_id, woken)

    async def abort(self, rollout_id: str, request: AbortRequest) -> RolloutView:
        """End a rollout by hand. Raises Refused if it is over."""

        def operation(connection: sa.Connection) -> set[str]:
            self._require_open(connection, rollout_id)
            woken = self._abort(connection, rollout_id, request.reason, keep=request.keep)
            return woken | self._step(connection, {})[0]

        return await self._done(rollout_id, await self._database.write(operation))

    async def pause(self, rollout_id: str) -> RolloutView:
        """Begin nothing more; devices that have begun go on. Raises Refused if it is over or paused already."""

        def operation(connection: sa.Connection) -> None:
            if self._require_open(connection, rollout_id).state is RolloutState.PAUSED:
                raise Refused(f"rollout {rollout_id} is paused already")
            rollouts.set_state(connection, rollout_id, RolloutState.PAUSED, paused_at_s=self._clock())

        await self._database.write(operation)
        return await self._done(rollout_id, set())

    async def resume(self, rollout_id: str) -> RolloutView:
        """Go on with a paused rollout; its deadlines stood still. Raises Refused if it is not paused."""

        def operation(connection: sa.Connection) -> set[str]:
            view = self._require_open(connection, rollout_id)
            if view.state is not RolloutState.PAUSED:
                raise Refused(f"rollout {rollout_id} is {view.state}, not paused")
            one = next(one for one in rollouts.open_rollouts(connection) if one.rollout_id == rollout_id)
            pause_s = self._clock() - (one.paused_at_s or self._clock())
            rollouts.set_state(
                connection,
                rollout_id,
                RolloutState.RUNNING if one.wave else RolloutState.QUEUED,
                reason="",
                paused_at_s=None,
                wave_started_at_s=one.wave_started_at_s + pause_s,
            )
            rollouts.set_on(connection, rollout_id, pause_s, now_s=self._clock())
            return self._step(connection, {})[0]

        return await self._done(rollout_id, await self._database.write(operation))

    def nudge(self) -> None:
        """A device reported something: look at the rollouts soon."""
        self._nudged.set()

    def wake(self, device_ids: set[str]) -> None:
        """There is news of these devices that is no rollout's: answer their held requests."""
        self._waker.wake(device_ids)

    async def run(self, *, tick_s: float) -> None:
        """Look at the rollouts at every nudge and every tick, until cancelled."""
        while True:
            await self._nudged.wait(tick_s)
            self._nudged.clear()
            began_s = time.monotonic()
            self._listening.look()
            try:
                await self.step()
            except EdgeloopError as error:
                _log.error("rollout_step_failed", code=error.code, detail=str(error))
            except Exception as error:  # noqa: BLE001 - the outer guard: rollouts must not stand still for ever
                _log.error("rollout_step_broke", exc_info=error)
            await asyncio.sleep(min(_REST * (time.monotonic() - began_s), tick_s))

    async def step(self) -> None:
        """Take every open rollout as far as it can go now. Who asks meanwhile comes after it: two would look through
        the same devices twice.
        """
        async with self._turn:
            for _ in range(_MOST_ROUNDS):
                due = await self._database.read(self._due)
                if not due.something:
                    return
                woken, is_more = await self._database.write(partial(self._step, drifted=due.drifted))
                self._waker.wake(woken)
                if not is_more:
                    return
        self.nudge()

    async def _done(self, rollout_id: str, woken: set[str]) -> RolloutView:
        """How the rollout stands, once its next steps are taken, or under way: 10,000 devices take a while."""
        self._waker.wake(woken)
        stepping = asyncio.create_task(self.step())
        self._stepping.add(stepping)
        stepping.add_done_callback(self._stepped)
        await asyncio.wait([stepping], timeout=_PATIENCE_S)
        if stepping.done():
            stepping.result()
        return await self._database.read(lambda connection: rollouts.get_rollout(connection, rollout_id))

    def _stepped(self, stepping: "asyncio.Task[None]") -> None:
        self._stepping.discard(stepping)
        if not stepping.cancelled() and (error := stepping.exception()) is not None:
            _log.error("rollout_step_failed", detail=str(error))

    def _due(self, connection: sa.Connection) -> _Due:
        decisions = self._decisions(connection)
        drifted: dict[str, bool] = {}
        for one, decision in decisions:
            if isinstance(decision, Give):
                some = decision.device_ids[:_GIVEN_AT_ONCE]
                looked_at = drifting(connection, some, last=_DRIFT_WINDOW) if one.gate.spare_drifted else {}
                drifted |= dict.fromkeys(some, False) | looked_at
        given = rollouts.given(connection)
        something = bool(decisions or self._changed_outcomes(given) or self._is_ahead(connection, given))
        return _Due(something, drifted)

    def _require_open(self, connection: sa.Connection, rollout_id: str) -> RolloutView:
        view = rollouts.get_rollout(connection, rollout_id)
        if view.state.is_final:
            raise Refused(f"rollout {rollout_id} is {view.state} already")
        return view

    def _step(self, connection: sa.Connection, drifted: dict[str, bool]) -> tuple[set[str], bool]:
        """One decision may make the next one due: what ends sets devices free for others.

        drifted: of devices that were looked at. Returns who is to be woken, and whether more is to be done.
        """
        woken: set[str] = set()
        given = rollouts.given(connection)
        if self._is_ahead(connection, given):
            rollouts.set_back(connection, now_s=self._clock())
            given = rollouts.given(connection)
        for waited, outcome, reason in self._changed_outcomes(given):
            rollouts.note_outcome(connection, waited, outcome, reason)
        for _ in range(_MOST_ROUNDS):
            decisions = self._decisions(connection)
            ready = [(one, _ready(decision, drifted)) for one, decision in decisions]
            for one, decision in ready:
                woken |= self._carry_out(connection, one, decision, drifted)
            if all(isinstance(decision, Hold) for _, decision in ready):
                return woken, bool(decisions)
            if any(_is_part(decision, of) for (_, decision), (_, of) in zip(ready, decisions, strict=True)):
                return woken, True  # the rest is known to be due, and is looked at first
        return woken, True

    def _is_ahead(self, connection: sa.Connection, given: list[rollouts.Given]) -> bool:
        """Whether a deadline would count from a time that has not come: the clock was wrong, and was corrected."""
        times = [max(one.given_at_s, one.since_s, one.last_seen_s or 0.0) for one in given]
        return max(*times, rollouts.newest_wave_s(connection), 0.0) > self._clock() + _SKEW_S

    def _changed_outcomes(self, given: list[rollouts.Given]) -> list[tuple[rollouts.Given, Outcome | None, str]]:
        """Who has become unreachable, or is heard of again; while a rollout is paused, nobody of it is judged."""
        changed: list[tuple[rollouts.Given, Outcome | None, str]] = []
        now_s = self._clock()
        listening_s = now_s - self._listening.since_s(now_s)
        for one in given:
            if one.is_paused:
                continue
            patience_s = min(one.gate.unreachable_after_s, one.gate.stuck_after_s, one.gate.wave_deadline_s)
            if one.outcome is None and now_s - min(one.since_s, one.given_at_s) <= patience_s:
                continue  # too soon for any of its deadlines
            waited = Waited(
                state=one.state,
                for_s=min(now_s - one.given_at_s, listening_s),
                unmoved_s=min(now_s - one.since_s, listening_s),
                silent_s=min(now_s - (one.last_seen_s or 0.0), listening_s),
                has_window=one.has_window,
            )
            why = unreachable(waited, one.gate)
            outcome = None if why is None else Outcome.UNREACHABLE
            if outcome is not one.outcome:
                changed.append((one, outcome, why or "heard of again"))
        return changed

    def _decisions(self, connection: sa.Connection) -> list[tuple[rollouts.Open, Decision]]:
        """What is to be done: the oldest rollout's word on each device comes first."""
        opened = rollouts.open_rollouts(connection)
        if not opened:
            return []
        # Alone, it holds each device that has not come to an end.
        held = rollouts.holders(connection) if len(opened) > 1 else None
        decided = [(one, self._decide(connection, one, held)) for one in opened]
        return [(one, decision) for one, decision in decided if not isinstance(decision, Hold)]

    def _decide(self, connection: sa.Connection, one: rollouts.Open, held: dict[str, str] | None) -> Decision:
        now_s = self._clock()
        members = tuple(
            Member(
                device_id=row.device_id,
                wave=row.wave,
                state=row.state,
                outcome=row.outcome,
                reason=row.reason,
                is_given=row.generation is not None,
                has_turn=row.outcome is None if held is None else held.get(row.device_id) == one.rollout_id,
            )
            for row in one.rows
        )
        stage = Stage(
            wave=one.wave,
            wave_age_s=now_s - max(one.wave_started_at_s, self._listening.since_s(now_s)),
            is_paused=one.state is RolloutState.PAUSED,
            has_window=one.window is not None,
        )
        old, new = _labelled(connection, one)
        return decide(members, stage, one.gate, old=old, new=new)

    def _carry_out(
        self, connection: sa.Connection, one: rollouts.Open, decision: Decision, drifted: dict[str, bool]
    ) -> set[str]:
        if isinstance(decision, NextWave):
            rollouts.begin_wave(connection, one.rollout_id, decision.wave, now_s=self._clock())
        elif isinstance(decision, Give):
            return self._give(connection, one, {name: drifted.get(name, False) for name in decision.device_ids})
        elif isinstance(decision, Abort):
            return self._abort(connection, one.rollout_id, decision.reason)
        elif isinstance(decision, Complete):
            rollouts.end_rollout(
                connection, one.rollout_id, RolloutState.COMPLETED, decision.reason, now_s=self._clock()
            )
        return set()

    def _start(self, connection: sa.Connection, request: RolloutRequest) -> str:
        bundle = registry.get_bundle(connection, BundleRef.parse(request.bundle))
        group = [view.device_id for view in _group(fleet.list_devices(connection), request.group)]
        order = order_devices(group, first=request.first)
        return rollouts.add_rollout(
            connection,
            request,
            bundle=f"{bundle.name}@{bundle.version}",
            sizes=wave_sizes(request.waves, len(order)),
            devices=order,
            now_s=self._clock(),
        )

    def _give(self, connection: sa.Connection, one: rollouts.Open, drifted: dict[str, bool]) -> set[str]:
        """drifted: of each device that is given the bundle."""
        bundle = registry.get_bundle(connection, BundleRef.parse(one.bundle))
        for device_id, is_drifted in drifted.items():
            wanted = Assignment(
                generation=0,
                rollout_id=one.rollout_id,
                bundle=one.bundle,
                manifest_sha256=bundle.manifest_sha256,
                watch=_bounds(one.gate, is_drifted=is_drifted),
                window=one.window,
            )
            before = _sound(connection, device_id)
            generation = fleet.assign(connection, device_id, wanted, now_s=self._clock())
            rollouts.note_assigned(
                connection,
                one.rollout_id,
                device_id,
                generation=generation,
                before=None if before is None else to_json(before).decode(),
                now_s=self._clock(),
            )
        rollouts.begin_wave(connection, one.rollout_id, one.wave, now_s=self._clock())
        return fleet.with_carriers(connection, set(drifted))

    def _abort(self, connection: sa.Connection, rollout_id: str, reason: str, *, keep: bool = False) -> set[str]:
        """End it; unless told to keep it, want the old version again wherever the new one was not confirmed."""
        rollouts.end_rollout(connection, rollout_id, RolloutState.ABORTED, reason, now_s=self._clock())
        if keep:
            return set()
        woken = set()
        for device_id, before in rollouts.befores(connection, rollout_id).items():
            if _withdraw(connection, rollout_id, device_id) is Outcome.CONFIRMED:
                continue
            wanted = fleet.assigned(connection, device_id).assignment
            if wanted is not None and wanted.rollout_id == rollout_id:
                fleet.assign(connection, device_id, _assignment(before), now_s=self._clock())
                woken.add(device_id)
        return fleet.with_carriers(connection, woken)


def _ready(decision: Decision, drifted: dict[str, bool]) -> Decision:
    """What of a decision can be carried out now: nobody is given a bundle who was not looked at before."""
    if not isinstance(decision, Give):
        return decision
    looked_at = tuple(device_id for device_id in decision.device_ids if device_id in drifted)
    return Give(looked_at) if looked_at else Hold()


def _is_part(decision: Decision, of: Decision) -> bool:
    """Whether others than these are to be given the bundle, too."""
    return isinstance(decision, Give) and isinstance(of, Give) and len(decision.device_ids) < len(of.device_ids)


def _withdraw(connection: sa.Connection, rollout_id: str, device_id: str) -> Outcome | None:
    """What an aborted rollout came to on a device; from here on another replica cannot change it before the commit."""
    while True:
        row = rollouts.get_row(connection, rollout_id, device_id)
        outcome, reason = row.outcome, row.reason
        if outcome not in (None, Outcome.UNREACHABLE):
            return outcome
        if outcome is None:
            was_active = row.state is UpdateState.ACTIVE
            outcome = Outcome.ROLLED_BACK if was_active else Outcome.REFUSED
            told = "told to go back" if was_active else "withdrawn before it ran"
            reason = f"{told}: the rollout was aborted"
        if rollouts.note_outcome(connection, row, outcome, reason):
            return outcome


def _sound(connection: sa.Connection, device_id: str) -> Assignment | None:
    """What a device was given last, or before it where it did not come to run that."""
    found = fleet.assigned(connection, device_id).assignment
    seen: set[str] = set()
    while found is not None and found.rollout_id not in seen:
        seen.add(found.rollout_id)
        outcome, before = rollouts.came_to(connection, found.rollout_id, device_id)
        if outcome is None or outcome is Outcome.CONFIRMED:
            return found
        found = _assignment(before)
    return found


def _assignment(text: str | None) -> Assignment | None:
    return None if text is None else from_json(text.encode(), Assignment, what="an assignment")


def _labelled(connection: sa.Connection, one: rollouts.Open) -> tuple[Labelled, Labelled]:
    """How the version before and the new one do on labelled samples of the devices that were given the new one."""
    nothing = UNLABELLED, UNLABELLED
    if one.gate.max_accuracy_drop is None or not one.wave:
        return nothing
    new = labelled_samples(connection, one.bundle)
    if sum(labelled for labelled, _ in new.values()) < one.gate.min_labelled:
        return nothing
    before: dict[str, set[str]] = {}
    for device_id, text in rollouts.befores(connection, one.rollout_id).items():
        assignment = _assignment(text)
        if assignment is not None and assignment.bundle != one.bundle:
            before.setdefault(assignment.bundle, set()).add(device_id)
    given = {device_id for devices in before.values() for device_id in devices}
    old = [
        counts
        for bundle, devices in before.items()
        for device_id, counts in labelled_samples(connection, bundle).items()
        if device_id in devices
    ]
    return _sum(old), _sum([counts for device_id, counts in new.items() if device_id in given])


def _sum(counts: list[tuple[int, int]]) -> Labelled:
    return Labelled(sum(labelled for labelled, _ in counts), sum(right for _, right in counts))


def _group(devices: list[DeviceView], group: str) -> list[DeviceView]:
    wanted = labels_of(group)
    able = [
        device
        for device in devices
        if device.kind is Kind.DEVICE and device.revoked_at_s is None and wanted.items() <= device.labels.items()
    ]
    if not able:
        raise InvalidInput(f"no device is in group {group!r}; 'edgeloop fleet list' shows devices and labels")
    return able


def _bounds(gate: Gate, *, is_drifted: bool) -> WatchBounds:
    """The gate's bounds; a device whose input drifted is expected to differ from the version that drift hurt."""
    if not is_drifted:
        return gate.watch
    return msgspec.structs.replace(gate.watch, max_disagreement=None, max_score_shift=None, max_empty_rise=None)
