"""Keys: who signs what and until when; rotate, add, renew, with the offline keys in files that stay where they are."""

import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import typer

from edgeloop.bundle.durable import write_durable
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import OPERATOR_DEFAULT, AsJson, Operator, console, show_table
from edgeloop.contracts.api import KeyChange, KeyRole, KeysView, OnlineKey
from edgeloop.contracts.codec import from_json, to_pretty_json
from edgeloop.contracts.errors import InvalidInput, NotFound, Refused
from edgeloop.transport.cloud_api import CloudApi, read_operator

if TYPE_CHECKING:
    from edgeloop.toolchain.keys import Signers

app = typer.Typer(help="The keys that everything is signed with.", no_args_is_help=True)


class _Rotated(StrEnum):
    TARGETS = "targets"
    ONLINE = "online"
    ROOT = "root"


class _Offline(StrEnum):
    TARGETS = "targets"
    ROOT = "root"


class _Repository(StrEnum):
    IMAGES = "images"
    DIRECTOR = "director"


RootKeys = Annotated[
    list[Path] | None,
    typer.Option("--root-key", help="A root key until now, else keys/root.pem; give each that is needed."),
]
TargetsKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--targets-key", help="A targets key that goes on signing; else the one that the operator file names."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Write the change to this file instead of sending it, for others to sign ('keys sign')."),
]
NewKey = Annotated[
    Path | None, typer.Option(help="The new offline key; it is made if there is no such file. Not for online keys.")
]
_ROOT_KEY = Path("keys/root.pem")


@app.command()
def show(operator: Operator = OPERATOR_DEFAULT, as_json: AsJson = False) -> None:
    """Roles, key ids, thresholds and expiries of both repositories."""
    with CloudApi(read_operator(operator)) as api:
        _show(api.keys(), as_json=as_json)


@app.command()
def make(
    file: Annotated[Path, typer.Argument(help="Where the new private key goes; its public half goes to FILE.pub.")],
    as_json: AsJson = False,
) -> None:
    """Make an offline key. Whoever is to hold it makes it, and hands on only FILE.pub."""
    from edgeloop.toolchain.keys import make_key

    key_id = make_key(file)
    if as_json:
        emit_json({"key_id": key_id, "private": str(file), "public": f"{file}.pub"})
        return
    console.print(f"key {key_id[:12]} in {file}, its public half in {file}.pub", highlight=False)


@app.command()
def rotate(
    what: Annotated[_Rotated, typer.Argument(help="Which keys.")],
    repository: Annotated[
        _Repository | None, typer.Option(help="Only this repository's, for online and root; else both.")
    ] = None,
    new_key: NewKey = None,
    replace: Annotated[
        str | None, typer.Option(help="The id, or its beginning, of the key that goes, where a role has several.")
    ] = None,
    root_key: RootKeys = None,
    targets_key: TargetsKeys = None,
    out: Out = None,
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Put a new key in the place of an old one, which is worth nothing from then on."""
    from edgeloop.toolchain import keys
    from edgeloop.transport.signing import read_public_key

    if (what is _Rotated.ONLINE) == (new_key is not None):
        raise InvalidInput("--new-key names the new root or targets key; an online key is made by the server itself")
    if repository is not None and what is _Rotated.TARGETS:
        raise InvalidInput("only the images repository has a targets key offline; leave --repository out")
    root_keys = root_key or [_ROOT_KEY]
    repositories: list[Literal["images", "director"]] = ["images", "director"]
    if repository is not None:
        repositories = ["images" if repository is _Repository.IMAGES else "director"]
    with CloudApi(read_operator(operator)) as api:
        view, now_s = api.keys(), time.time()
        if new_key is None:
            signers = keys.Signers.read(root_keys, ())
            if out is None:
                _require_signed(view, keys.renew(view, "root", signers, now_s=now_s))
            new: dict[str, OnlineKey] = {one: api.make_online_key(one) for one in repositories}
            change = keys.change_online(view, new, signers, now_s=now_s)
        else:
            if not new_key.exists():
                keys.make_key(new_key)
            is_root = what is _Rotated.ROOT
            signers = keys.Signers.read(
                [*root_keys, new_key] if is_root else root_keys, () if is_root else [new_key, *(targets_key or ())]
            )
            role = keys.RoleChange(
                what.value,
                added=[read_public_key(new_key)],
                dropped=[replace or _only_key(view, what.value)],
                repositories=repositories,
            )
            change = keys.change_role(view, role, signers, now_s=now_s)
        _finish(api, view, change, out, as_json=as_json)
    if what is _Rotated.TARGETS and out is None and new_key is not None:
        _point_at(operator, new_key)


@app.command()
def threshold(
    role: Annotated[_Offline, typer.Argument(help="Which offline role.")],
    count: Annotated[int, typer.Argument(min=1, max=20, help="How many of its keys must sign.")],
    add_key: Annotated[
        list[Path] | None, typer.Option(help="A key that joins the role: its .pub file, or the private one.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="The id, or its beginning, of a key that leaves it.")] = None,
    root_key: RootKeys = None,
    targets_key: TargetsKeys = None,
    out: Out = None,
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Say how many keys must sign, and which there are: with two of three, one stolen or lost key does no harm."""
    from edgeloop.toolchain import keys
    from edgeloop.transport.signing import read_public_key

    signers = _signers(root_key or [_ROOT_KEY], targets_key, operator)
    added = [read_public_key(path) for path in add_key or ()]
    wanted = keys.RoleChange(role.value, added=added, dropped=drop or (), threshold=count)
    with CloudApi(read_operator(operator)) as api:
        view = api.keys()
        change = keys.change_role(view, wanted, signers, now_s=time.time())
        _finish(api, view, change, out, as_json=as_json)


@app.command()
def renew(
    role: Annotated[_Offline, typer.Argument(help="What is signed anew.")],
    root_key: RootKeys = None,
    targets_key: TargetsKeys = None,
    out: Out = None,
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Sign a role anew with the keys that it has, before it expires."""
    from edgeloop.toolchain import keys

    needed = (root_key or [_ROOT_KEY]) if role is _Offline.ROOT else ()
    signers = _signers(needed, targets_key, operator) if role is _Offline.TARGETS else keys.Signers.read(needed, ())
    with CloudApi(read_operator(operator)) as api:
        view = api.keys()
        change = keys.renew(view, role.value, signers, now_s=time.time())
        _finish(api, view, change, out, as_json=as_json)


@app.command()
def lift(
    targets_key: TargetsKeys = None,
    out: Out = None,
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """After a restore: sign what is published anew, with a version beyond any that devices can have seen."""
    from edgeloop.toolchain import keys

    signers = _signers((), targets_key, operator)
    with CloudApi(read_operator(operator)) as api:
        view = api.keys()
        change = keys.lift(view, signers, now_s=time.time())
        _finish(api, view, change, out, as_json=as_json)


@app.command()
def sign(
    file: Annotated[Path, typer.Argument(help="A change that '--out' wrote.")],
    root_key: Annotated[list[Path] | None, typer.Option(help="A root key to sign its roots with.")] = None,
    targets_key: Annotated[list[Path] | None, typer.Option(help="A targets key to sign its targets with.")] = None,
) -> None:
    """Add signatures to a change, with no network: look at it, sign it, hand it on."""
    from edgeloop.toolchain import keys

    change = _read(file)
    signed = keys.add_keys_signatures(change, keys.Signers.read(root_key or (), targets_key or ()))
    if signed == change:
        raise InvalidInput("nothing was signed; give --root-key, --targets-key or both")
    write_durable(file, to_pretty_json(signed))
    console.print(f"signed {file}; 'edgeloop keys submit {file}' sends it", highlight=False)


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="A change with all its signatures.")],
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Send a change that was signed in several places."""
    with CloudApi(read_operator(operator)) as api:
        _finish(api, api.keys(), _read(file), None, as_json=as_json)


def _finish(api: CloudApi, view: KeysView, change: KeyChange, out: Path | None, *, as_json: bool) -> None:
    """Send the change, or put it into a file for others to sign."""
    from edgeloop.toolchain import keys

    if out is not None:
        write_durable(out, to_pretty_json(change))
        lacks = keys.lacking(view, change)
        still = f"It lacks: {'; '.join(lacks)}." if lacks else "It is complete."
        console.print(f"the change is in {out}. {still} 'keys sign' adds signatures, 'keys submit' sends it.")
        return
    _require_signed(view, change)
    _show(api.change_keys(change), as_json=as_json)


def _require_signed(view: KeysView, change: KeyChange) -> None:
    from edgeloop.toolchain import keys

    lacks = keys.lacking(view, change)
    if lacks:
        raise Refused(
            f"nothing was changed: signatures are missing. {'; '.join(lacks)}. Give more keys with --root-key and "
            "--targets-key, or write the change to a file with --out and let their holders add theirs with 'keys sign'."
        )


def _show(view: KeysView, *, as_json: bool) -> None:
    if as_json:
        emit_json(view.roles)
        return
    show_table("keys", ("role", "keys", "sign", "kept", "version", "expires"), [_row(role) for role in view.roles])
    for role in view.roles:
        if role.warning:
            console.print(f"[yellow]{role.repository} {role.role}[/] {role.warning}", highlight=False)


def _row(role: KeyRole) -> tuple[str, ...]:
    expires = "-" if role.expires_at_s is None else datetime.fromtimestamp(role.expires_at_s, UTC).strftime("%Y-%m-%d")
    return (
        f"{role.repository} {role.role}",
        " ".join(one[:12] for one in role.key_ids),
        f"{role.threshold} of {len(role.key_ids)}",
        "offline" if role.is_offline else "server",
        "-" if role.version is None else str(role.version),
        expires,
    )


def _signers(root: list[Path] | tuple[()], targets: list[Path] | None, operator: str) -> "Signers":
    """The keys that are named, with the operator file's targets key where none is."""
    from edgeloop.toolchain.keys import Signers

    if targets is None:
        named = read_operator(operator).targets_key
        targets = [Path(named)] if named and Path(named).is_file() else []
    return Signers.read(root, targets)


def _only_key(view: KeysView, role: str) -> str:
    (found,) = (one for one in view.roles if (one.repository, one.role) == ("images", role))
    if len(found.key_ids) != 1:
        known = ", ".join(one[:12] for one in found.key_ids)
        raise InvalidInput(f"the {role} role has {len(found.key_ids)} keys; say with --replace which goes: {known}")
    return found.key_ids[0]


def _read(file: Path) -> KeyChange:
    if not file.is_file():
        raise NotFound(f"there is no {file}; '--out' of another 'keys' command writes it")
    return from_json(file.read_bytes(), KeyChange, what=str(file))


def _point_at(operator: str, targets_key: Path) -> None:
    """So that publishing goes on: the operator file names the new key from now on."""
    known = read_operator(operator)
    write_durable(
        Path(operator),
        to_pretty_json(msgspec.structs.replace(known, targets_key=str(targets_key.resolve()))),
        mode=0o600,
    )
