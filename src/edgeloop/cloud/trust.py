"""Changes of keys, and how long what is signed holds.

Rule kept here: a root counts only if enough of the keys of the root before signed it and enough of its own, and if the
server could go on serving under it. Signing is done elsewhere, see `toolchain.keys`; nothing here needs an offline key.
Source: TUF specification 1.0, 5.3.4 (a root and its predecessor), 6.1 (key management).
"""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import sqlalchemy as sa
import structlog
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization import DeserializationError

from edgeloop.cloud.hub import Stores
from edgeloop.cloud.repository import check_targets
from edgeloop.cloud.store import registry, restores, roots
from edgeloop.cloud.store.database import Database
from edgeloop.cloud.store.registry import SignedTargets
from edgeloop.cloud.store.roots import Roots
from edgeloop.contracts.api import KeyChange, KeyRole, KeysView, OnlineKey
from edgeloop.contracts.errors import Corrupt, EdgeloopError, InvalidInput, Refused
from edgeloop.contracts.messages import MAX_TARGETS_BYTES
from edgeloop.transport.signing import DIRECTOR, IMAGES, REPOSITORY, public_key, version_beyond

_log = structlog.get_logger(__name__)

_DAY_S = 86_400
WARN_ROOT_S = 365 * _DAY_S
WARN_TARGETS_S = 180 * _DAY_S
"""How long before its expiry a role is warned of: people must find the offline keys, and devices may be away."""

_ROLES = {IMAGES: ("root", "targets", "snapshot", "timestamp"), DIRECTOR: ("root", "targets", "snapshot", "timestamp")}
_OFFLINE = {IMAGES: ("root", "targets"), DIRECTOR: ("root",)}


class _Checked(msgspec.Struct, frozen=True):
    """A change that may be kept: roots by repository, and the version of the targets that come along."""

    roots: dict[str, tuple[int, bytes]]
    targets: tuple[int, bytes] | None


def view(known: Roots, targets: SignedTargets, *, now_s: float, behind_since_s: float | None = None) -> KeysView:
    """Who signs what, until when. behind_since_s: see store.restores."""
    images_root, director_root = known.newest()
    signed_targets = Metadata[Targets].from_bytes(targets.metadata).signed
    roles = []
    for repository, data in ((IMAGES, images_root), (DIRECTOR, director_root)):
        root = Metadata[Root].from_bytes(data).signed
        for name in _ROLES[repository]:
            keys = root.roles[name]
            role = KeyRole(
                repository=repository,
                role=name,
                key_ids=tuple(keys.keyids),
                threshold=keys.threshold,
                is_offline=name in _OFFLINE[repository],
            )
            if name == "root":
                role = _until(role, root, WARN_ROOT_S, now_s)
            elif name == "targets" and repository == IMAGES:
                role = _until(role, signed_targets, WARN_TARGETS_S, now_s)
                if behind_since_s is not None:
                    role = msgspec.structs.replace(role, warning=_behind(behind_since_s, role.warning))
                role = _filling(role, len(targets.metadata), bundles=_bundles_in(signed_targets))
            roles.append(role)
    return KeysView(roles=tuple(roles), images_root=images_root, director_root=director_root, targets=targets.metadata)


def check_change(
    change: KeyChange, known: Roots, targets: SignedTargets, *, has_online: Callable[[str], bool], now_s: float
) -> _Checked:
    """What of a change may be kept. has_online: whether the server holds the key of this id.

    Raises Corrupt, Refused if the signatures do not suffice or something does not follow on what is known, and
    InvalidInput if the server could not serve under the new roots.
    """
    current = dict(zip((IMAGES, DIRECTOR), known.newest(), strict=True))
    given = {IMAGES: change.images_root, DIRECTOR: change.director_root}
    checked = {}
    for repository, data in given.items():
        if data is not None:
            root = _check_root(data, repository, current[repository])
            _require_servable(root, repository, has_online, now_s)
            checked[repository] = (root.version, data)
    images_root = checked[IMAGES][1] if IMAGES in checked else current[IMAGES]
    if change.targets is not None:
        # From the targets key's holder, who may have to go beyond what devices saw of a cloud that was lost.
        most = version_beyond(targets.version, now_s=now_s + _DAY_S)
        after = check_targets(change.targets, root=images_root, current=targets.metadata, most=most)
        if after.is_expired(_utc(now_s)):
            raise Refused(f"the targets metadata expired on {after.expires:%Y-%m-%d}; sign it anew")
        return _Checked(checked, (after.version, change.targets))
    if not checked:
        raise InvalidInput("nothing is changed: neither a root nor targets metadata came")
    _require_still_signed(images_root, targets.metadata)
    return _Checked(checked, None)


async def read_view(stores: Stores, *, now_s: float) -> KeysView:
    """`view` of what is stored."""

    def operation(connection: sa.Connection) -> KeysView:
        return _view(connection, now_s)

    return await stores.database.read(operation)


async def change_keys(stores: Stores, change: KeyChange, *, now_s: float) -> KeysView:
    """Keep a change, whole or not at all; private keys of the server that no root names any more are removed."""

    def operation(connection: sa.Connection) -> set[str]:
        before = roots.read_roots(connection)
        targets = registry.newest_targets(connection)
        checked = check_change(change, before, targets, has_online=stores.online.has, now_s=now_s)
        for repository, (version, data) in checked.roots.items():
            roots.add_root(connection, repository, version, data, now_s=now_s)
        if checked.targets is not None:
            registry.add_targets(connection, *checked.targets, after=targets.version, now_s=now_s)
        return _named(before) - _named(roots.read_roots(connection))

    retired = await stores.database.write(operation)
    await asyncio.to_thread(stores.online.forget, retired)
    return await read_view(stores, now_s=now_s)


def forget_retired(stores: Stores) -> None:
    """Remove online keys that an earlier root named and no newest one does: what `change_keys` does at once, unless the
    process ended just then. A key that no root ever named waits for one that is signed elsewhere, and stays.
    """
    known = stores.database.read_now(roots.read_roots)
    every = {one for root in (*known.images, *known.director) for one in _keys_in(root.metadata)}
    stores.online.forget(every - _named(known))


def make_online_key(stores: Stores, repository: str) -> OnlineKey:
    """A new key of the server's own."""
    key = stores.online.make(repository)
    return OnlineKey(key_id=public_key(key).keyid, public_key=key.public_key().public_bytes_raw())


async def warn_daily(database: Database, *, clock: Callable[[], float] = time.time) -> None:
    """Say in the log what is about to expire, at once and then each day, until cancelled."""
    while True:
        try:
            found = await database.read(lambda c: _view(c, clock()))
        except EdgeloopError as error:
            _log.warning("expiry_not_known", detail=str(error))
        else:
            for role in found.roles:
                if role.warning:
                    _log.warning("signature_expires", repository=role.repository, role=role.role, detail=role.warning)
        await asyncio.sleep(_DAY_S)


def _view(connection: sa.Connection, now_s: float) -> KeysView:
    behind_since_s = restores.behind_since_s(connection)
    targets = registry.newest_targets(connection)
    return view(roots.read_roots(connection), targets, now_s=now_s, behind_since_s=behind_since_s)


def _behind(since_s: float, warning: str) -> str:
    said = (
        f"restored from a backup on {_utc(since_s):%Y-%m-%d}: devices that saw a later list of bundles take no update "
        "until 'edgeloop keys lift'"
    )
    return f"{said}; {warning}" if warning else said


def _bundles_in(signed: Targets) -> int:
    return sum(path.startswith("bundles/") for path in signed.targets)


def _filling(role: KeyRole, size_bytes: int, *, bundles: int) -> KeyRole:
    """With a warning from half of what devices take on: there is time then to think of what comes next."""
    if size_bytes * 2 < MAX_TARGETS_BYTES:
        return role
    left = (MAX_TARGETS_BYTES - size_bytes) * bundles // size_bytes
    said = (
        f"the list of all that is published is {size_bytes:,} bytes large, of the {MAX_TARGETS_BYTES:,} that devices "
        f"take: room for about {left:,} more bundles like those until now, then for none; plan another cloud for what "
        "comes next"
    )
    return msgspec.structs.replace(role, warning=f"{role.warning}; {said}" if role.warning else said)


def _until(role: KeyRole, signed: Root | Targets, warn_s: float, now_s: float) -> KeyRole:
    expires_at_s = signed.expires.timestamp()
    left_s = expires_at_s - now_s
    warning = ""
    if left_s < warn_s:
        when = f"expired on {signed.expires:%Y-%m-%d}" if left_s <= 0 else f"expires in {left_s / _DAY_S:.0f} days"
        warning = f"{when}: sign it anew with 'edgeloop keys renew {role.role}'; without it no device takes an update"
    return msgspec.structs.replace(role, version=signed.version, expires_at_s=expires_at_s, warning=warning)


def _check_root(data: bytes, repository: str, current: bytes) -> Root:
    """A root that follows on `current`, signed by enough keys of both."""
    try:
        metadata = Metadata[Root].from_bytes(data)
        before, after = Metadata[Root].from_bytes(current).signed, metadata.signed
        if after.version != before.version + 1:
            raise Refused(
                f"the {repository} root has version {after.version}, the next one is {before.version + 1}: somebody "
                "changed keys in between. Begin anew."
            )
        if after.unrecognized_fields.get(REPOSITORY) != repository:
            raise Refused(f"this root is not marked as one of {repository}; make it with 'edgeloop keys'")
        for judge in (before, after):
            judge.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    except DeserializationError as error:
        raise Corrupt(f"the {repository} root is no TUF metadata: {error}") from error
    except (RepositoryError, ValueError) as error:
        raise Refused(
            f"the {repository} root is not signed by enough root keys: {error}. It needs as many of the keys until "
            "now and as many of the new ones as their thresholds say; add them with 'edgeloop keys sign'."
        ) from error
    return after


def _require_servable(root: Root, repository: str, has_online: Callable[[str], bool], now_s: float) -> None:
    if root.is_expired(_utc(now_s)):
        raise Refused(f"the {repository} root expired on {root.expires:%Y-%m-%d}; sign it anew")
    if not root.consistent_snapshot:
        raise InvalidInput(f"the {repository} root must ask for consistent snapshots")
    for role in _ROLES[repository]:
        held = [one for one in root.roles[role].keyids if has_online(one)]
        if role in _OFFLINE[repository]:
            if held:
                raise InvalidInput(
                    f"the {repository} {role} role names {held[0][:12]}, a key that this server holds: whoever steals "
                    "the server would have it. Use a key of your own."
                )
        elif (root.roles[role].threshold, len(root.roles[role].keyids), len(held)) != (1, 1, 1):
            raise InvalidInput(
                f"the {repository} {role} role must name one key, and one that this server holds; let it make one "
                "with 'edgeloop keys rotate online'"
            )


def _require_still_signed(images_root: bytes, targets: bytes) -> None:
    try:
        Metadata[Root].from_bytes(images_root).signed.verify_delegate(
            "targets", (metadata := Metadata[Targets].from_bytes(targets)).signed_bytes, metadata.signatures
        )
    except RepositoryError as error:
        raise Refused(
            "under the new root what is published would not be signed any more; send targets metadata that the new "
            f"targets keys sign along with it ({error})"
        ) from error


def _named(known: Roots) -> set[str]:
    """The ids of all keys that the newest roots name."""
    return {one for data in known.newest() for one in _keys_in(data)}


def _keys_in(root: bytes) -> set[str]:
    return set(Metadata[Root].from_bytes(root).signed.keys)


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
