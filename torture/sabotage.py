"""Promises broken on purpose, in the process that calls: the controls, which must be caught, or the tests show nothing.

None of it is reachable from the product.
"""

import asyncio
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

_COMMIT_DELAY_S = 0.3
_BETWEEN_S = 0.02


def accept_here() -> None:
    """No sabotage, but a second and a half saved: a device that tries a version in its own process."""
    from edgeloop.device import examine as trial
    from edgeloop.device.accept import Acceptance

    async def ask(question: trial.Question, manifest: bytes) -> trial.Findings:
        return await asyncio.to_thread(trial.examine, question, manifest)

    assert Acceptance.__init__.__kwdefaults__ is not None
    Acceptance.__init__.__kwdefaults__["ask"] = ask


def answer_here() -> None:
    """No sabotage either: a device that answers in its own process, and is at work half a second sooner."""
    from edgeloop.device.accept import Acceptance
    from torture.here import put_to_work_here

    assert Acceptance.__init__.__kwdefaults__ is not None
    Acceptance.__init__.__kwdefaults__["put_to_work"] = put_to_work_here


def acknowledge_before_commit() -> None:
    """A cloud that answers first and commits a moment later."""
    from edgeloop.cloud.hub import CloudHub
    from edgeloop.contracts.messages import SendReply, SendRequest

    honest, late = CloudHub.send, set()

    async def send(hub: CloudHub, device_id: str, request: SendRequest) -> SendReply:
        async def commit_late() -> None:
            await asyncio.sleep(_COMMIT_DELAY_S)
            await honest(hub, device_id, request)

        task = asyncio.create_task(commit_late())
        late.add(task)
        task.add_done_callback(late.discard)
        return SendReply(accepted=len(request.events), repeated=0)

    CloudHub.send = send  # type: ignore[assignment, method-assign]


def no_idempotency_key() -> None:
    """A cloud that knows no event again: each that comes is given an epoch that never was."""
    from edgeloop.cloud.store import inbox

    honest = inbox.add_events

    def add_events(connection: Any, batch: tuple[Any, ...]) -> int:
        strangers = (msgspec.structs.replace(event, epoch=secrets.randbits(62)) for event in batch)
        return honest(connection, tuple(strangers))

    inbox.add_events = add_events


def no_fsync() -> None:
    """A device that syncs nothing: no file, no folder, no database."""
    os.fsync = _not  # type: ignore[assignment]
    honest: Callable[..., sqlite3.Connection] = sqlite3.connect

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        return honest(*arguments, **{**named, "factory": _Unsynced})

    sqlite3.connect = sqlite3.dbapi2.connect = connect  # type: ignore[assignment]


def files_without_fsync() -> None:
    """A device or a cloud that syncs its databases, but no file and no folder."""
    os.fsync = _not  # type: ignore[assignment]


def trust_without_fsync() -> None:
    """A device that leaves signed metadata to python-tuf, which renames without fsync; all else is synced."""
    from edgeloop.transport.trust import Trust

    Trust._settle = lambda *_: None  # type: ignore[method-assign]


def switch_in_two() -> None:
    """A device that writes down what runs, and a moment later what became of the update."""
    from edgeloop.transport.keep import Keep

    def in_two(honest: Callable[[Keep, Mapping[str, Any]], None]) -> Callable[[Keep, Mapping[str, Any]], None]:
        def put(keep: Keep, changes: Mapping[str, Any]) -> None:
            if {"active", "update"} <= set(changes):
                honest(keep, {name: value for name, value in changes.items() if name != "update"})
                time.sleep(_BETWEEN_S)
                changes = {"update": changes["update"]}
            honest(keep, changes)

        return put

    Keep.set = in_two(Keep.set)  # type: ignore[method-assign]
    Keep.put_in_force = in_two(Keep.put_in_force)  # type: ignore[method-assign]


def _not(_: object) -> None:
    """Instead of fsync."""


class _Unsynced(sqlite3.Connection):
    """Whoever asks it to sync is heard and not heeded."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """As a connection does, but for `PRAGMA synchronous`."""
        if "synchronous" in sql.lower():
            sql = "PRAGMA synchronous = OFF"
        return super().execute(sql, *parameters)
