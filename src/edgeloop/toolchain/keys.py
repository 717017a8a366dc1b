"""Changes of keys, made and signed where the offline keys are.

Each function takes what the cloud holds now and gives a `KeyChange` back, which is sent or, while it lacks signatures,
carried to whoever has the other keys. Rule kept here: no private key leaves the machine that it is on.
Neighbours: `publish` signs what exists; `cloud.trust` checks what comes.
Source: TUF specification 1.0, 6.1 (key management and migration).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, Root, Targets

from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.api import KeyChange, KeysView, OnlineKey
from edgeloop.contracts.errors import InvalidInput
from edgeloop.transport.identity import private_pem, read_key
from edgeloop.transport.signing import (
    DIRECTOR,
    IMAGES,
    add_signatures,
    next_root,
    next_targets,
    public_key,
    version_beyond,
)

_OFFLINE = ("root", "targets")


@dataclass(frozen=True)
class Signers:
    """The offline keys that are at hand."""

    root: Sequence[Ed25519PrivateKey] = ()
    targets: Sequence[Ed25519PrivateKey] = ()

    @classmethod
    def read(cls, root: Iterable[Path], targets: Iterable[Path]) -> "Signers":
        """From PEM files. Raises NotFound or Corrupt."""
        return cls([read_key(path) for path in root], [read_key(path) for path in targets])


@dataclass(frozen=True)
class RoleChange:
    """What becomes of an offline role: keys that come, keys that go (by id or its beginning), the new threshold."""

    role: str
    added: Sequence[SSlibKey] = ()
    dropped: Sequence[str] = ()
    threshold: int | None = None
    repositories: Sequence[str] = field(default=(IMAGES, DIRECTOR))


def make_key(path: Path) -> str:
    """A new offline key in `path` (mode 0600), its public half in `path`.pub; returns its id.

    Raises InvalidInput if there is a file already: no key is ever overwritten.
    """
    if path.exists():
        raise InvalidInput(f"{path} is there already; a key is never overwritten. Choose another name.")
    key = Ed25519PrivateKey.generate()
    write_durable(path, private_pem(key), mode=0o600)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_durable(path.with_name(f"{path.name}.pub"), public)
    return public_key(key).keyid


def change_role(view: KeysView, change: RoleChange, signers: Signers, *, now_s: float) -> KeyChange:
    """New roots in which an offline role has other keys or another threshold.

    Where the targets role changes, what is published is signed anew with the targets keys at hand. Raises
    InvalidInput if the role could not be filled.
    """
    if change.role not in _OFFLINE:
        raise InvalidInput(f"{change.role!r} is no offline role; expected root or targets")
    repositories = (IMAGES,) if change.role == "targets" else change.repositories
    made = _roots(view, repositories, signers, lambda _, root: _apply(root, change), now_s)
    if change.role == "targets":
        made = msgspec.structs.replace(made, targets=next_targets(view.targets, {}, keys=signers.targets, now_s=now_s))
    return made


def change_online(view: KeysView, new: dict[str, OnlineKey], signers: Signers, *, now_s: float) -> KeyChange:
    """New roots that name these keys of the server's, by repository, in place of those until now."""

    def apply(repository: str, root: Root) -> None:
        roles = ("snapshot", "timestamp") if repository == IMAGES else ("targets", "snapshot", "timestamp")
        key = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(new[repository].public_key))
        for role in roles:
            for key_id in list(root.roles[role].keyids):
                root.revoke_key(key_id, role)
            root.add_key(key, role)

    return _roots(view, tuple(new), signers, apply, now_s)


def renew(view: KeysView, role: str, signers: Signers, *, now_s: float) -> KeyChange:
    """The same keys for longer: roots, or the targets metadata, signed anew."""
    if role == "root":
        return _roots(view, (IMAGES, DIRECTOR), signers, lambda repository, root: None, now_s)
    return KeyChange(targets=next_targets(view.targets, {}, keys=signers.targets, now_s=now_s))


def lift(view: KeysView, signers: Signers, *, now_s: float) -> KeyChange:
    """What exists, signed anew with a version beyond any that devices can have seen of a cloud that was restored."""
    version = version_beyond(Metadata[Targets].from_bytes(view.targets).signed.version, now_s=now_s)
    return KeyChange(targets=next_targets(view.targets, {}, keys=signers.targets, now_s=now_s, version=version))


def add_keys_signatures(change: KeyChange, signers: Signers) -> KeyChange:
    """The change with more signatures: of root keys on roots, of targets keys on targets."""
    return KeyChange(
        images_root=change.images_root and add_signatures(change.images_root, signers.root),
        director_root=change.director_root and add_signatures(change.director_root, signers.root),
        targets=change.targets and add_signatures(change.targets, signers.targets),
    )


def lacking(view: KeysView, change: KeyChange) -> list[str]:
    """What the change still needs, in words; empty when the cloud will find enough signatures."""
    found = []
    images_root = change.images_root or view.images_root
    for name, before, after in (
        (IMAGES, view.images_root, change.images_root),
        (DIRECTOR, view.director_root, change.director_root),
    ):
        if after is not None:
            judges = {"the keys until now": before, "the new keys": after}
            found += [f"{name} root: {one}" for one in _missing(after, "root", judges)]
    if change.targets is not None:
        found += [f"targets: {one}" for one in _missing(change.targets, "targets", {"the targets keys": images_root})]
    return found


def _missing(data: bytes, role: str, judges: dict[str, bytes]) -> list[str]:
    metadata = Metadata.from_bytes(data)
    found = []
    for who, root in judges.items():
        result = (
            Metadata[Root]
            .from_bytes(root)
            .signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        )
        if not result:
            lack = ", ".join(sorted(key_id[:12] for key_id in result.unsigned))
            found.append(f"{result.missing} more of {who} ({lack})")
    return found


def _roots(
    view: KeysView,
    repositories: Sequence[str],
    signers: Signers,
    apply: Callable[[str, Root], None],
    now_s: float,
) -> KeyChange:
    made = {}
    for repository in repositories:
        current = view.images_root if repository == IMAGES else view.director_root
        change = partial(apply, repository)
        made[repository] = next_root(current, repository, keys=signers.root, change=change, now_s=now_s)
    return KeyChange(images_root=made.get(IMAGES), director_root=made.get(DIRECTOR))


def _apply(root: Root, change: RoleChange) -> None:
    role = root.roles[change.role]
    for beginning in change.dropped:
        meant = [key_id for key_id in role.keyids if key_id.startswith(beginning)]
        if len(meant) != 1:
            known = ", ".join(key_id[:12] for key_id in role.keyids)
            raise InvalidInput(f"{beginning!r} names {len(meant)} keys of the {change.role} role; it has {known}")
        root.revoke_key(meant[0], change.role)
    for key in change.added:
        root.add_key(key, change.role)
    if change.threshold is not None:
        role.threshold = change.threshold
    if not 1 <= role.threshold <= len(role.keyids):
        raise InvalidInput(
            f"the {change.role} role would have {len(role.keyids)} keys and want {role.threshold} signatures; give it "
            "more keys with --add-key, or another threshold"
        )
