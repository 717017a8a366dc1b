"""Belonging to a hub: enrolment, and what is remembered of it."""

import asyncio
import ssl
from pathlib import Path

import httpx
import msgspec

from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.codec import from_json, to_pretty_json
from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.join import Join, enrol_statement, fresh_statement, parse_join_token, secret_hash, token_id
from edgeloop.contracts.messages import EnrolReply, EnrolRequest, Profile
from edgeloop.contracts.names import is_loopback, require_name
from edgeloop.contracts.states import Kind
from edgeloop.transport.identity import Identity, load_or_make_key, read_key
from edgeloop.transport.replies import StaleClock
from edgeloop.transport.uplink import Uplink

CONNECTIONS = httpx.Limits(max_connections=20, max_keepalive_connections=10, keepalive_expiry=65.0)
"""What goes up once a minute uses the connection of the minute before: to open one, with TLS, costs both sides more
than the request. Hubs hold them for 75 s, so that it is not they who let go first.
"""

_CA = "ca.pem"


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What a member knows of its hub. Roots are bytes of TUF root metadata, version 1.

    ca: a PEM file with the authority that signs the hub's certificate, None for those that the system trusts.
    joined_with: the ids of the join tokens that were used up here.
    """

    device_id: str
    kind: Kind
    hub_url: str
    images_root: bytes
    director_root: bytes
    ca: str | None = None
    joined_with: tuple[str, ...] = ()


def read_membership(folder: Path) -> Membership:
    """What was remembered in a state folder. Raises NotFound before enrolment, InvalidInput if we may not look."""
    member = _remembered(folder)
    if member is None:
        raise NotFound(
            f"{folder} is not enrolled yet; pass --hub URL and --join TOKEN once ('edgeloop fleet token' prints one)"
        )
    return member


def open_identity(folder: Path, device_id: str) -> Identity:
    """The enrolled identity of a state folder."""
    return Identity(device_id, read_key(folder / "device.pem"))


def enrol(
    folder: Path, *, hub_url: str, token: str, device_id: str, kind: Kind, profile: Profile, ca: str | None = None
) -> Membership:
    """`join_hub` with a token as text, unless this folder belongs to that hub under that id already: a unit file
    with its token must start without a network. A token that was not used here before enrols anew: that is how a
    device comes back after it was revoked. Raises InvalidInput if it is no token.
    """
    join = parse_join_token(token)
    member = _remembered(folder)
    if member is not None:
        is_same = (member.hub_url, member.device_id, member.kind) == (hub_url, device_id, kind)
        if is_same and (not member.joined_with or _id(join) in member.joined_with):
            return member
    joining = join_hub(folder, hub_url=hub_url, join=join, device_id=device_id, kind=kind, profile=profile, ca=ca)
    return asyncio.run(joining)


async def join_hub(
    folder: Path, *, hub_url: str, join: Join, device_id: str, kind: Kind, profile: Profile, ca: str | None = None
) -> Membership:
    """Enrol with a join token and remember it. The key is made here and never leaves.

    ca: a PEM file with the hub's certificate authority, if neither the token brings one nor the system knows it; it is
    copied. Raises Refused if the token, the hub's certificate or its roots are not good, Unavailable if the hub is
    away.
    """
    identity = Identity(require_name(device_id, what="device id"), load_or_make_key(folder / "device.pem"))
    authority = _keep_authority(folder, join, ca)
    async with open_client(hub_url, ca=None if authority is None else str(folder / authority)) as client:
        reply = await ask_to_join(Uplink(client, identity), join, kind=kind, profile=profile)
    member = Membership(
        device_id=reply.device_id,
        kind=kind,
        hub_url=hub_url,
        images_root=reply.images_root,
        director_root=reply.director_root,
        ca=authority,
        joined_with=(*_tokens_used(folder), _id(join)),
    )
    write_durable(folder / "membership.json", to_pretty_json(member), mode=0o600)
    return _placed(member, folder)


def _keep_authority(folder: Path, join: Join, ca: str | None) -> str | None:
    """Put the hub's private authority, if it has one, into the folder; returns its name there."""
    if ca is not None:
        try:
            pem = Path(ca).read_bytes()
        except OSError as error:
            raise InvalidInput(f"cannot read the certificate authority {ca}: {error}") from error
    elif join.ca:
        pem = join.ca_pem.encode()
    else:
        return None
    try:
        ssl.create_default_context(cadata=pem.decode())
    except (ValueError, ssl.SSLError) as error:
        raise InvalidInput(
            f"the certificate authority {ca or 'in the join token'} is no certificate: {error}"
        ) from error
    write_durable(folder / _CA, pem)
    return _CA


def _tokens_used(folder: Path) -> tuple[str, ...]:
    member = _remembered(folder)
    return () if member is None else member.joined_with


def _remembered(folder: Path) -> Membership | None:
    """None before enrolment. Raises InvalidInput if the folder is somebody else's."""
    path = folder / "membership.json"
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidInput(
            f"cannot read {path}: {error.strerror}. Run this as root, or as the account whose folder it is."
        ) from error
    return _placed(from_json(data, Membership, what=str(path)), folder)


def _placed(member: Membership, folder: Path) -> Membership:
    """With the authority's place as of now: the folder may be moved."""
    return msgspec.structs.replace(member, ca=str(folder / _CA)) if member.ca == _CA else member


def _id(join: Join) -> str:
    return token_id(secret_hash(join.secret))


async def ask_to_join(uplink: Uplink, join: Join, *, kind: Kind, profile: Profile) -> EnrolReply:
    """Enrol the uplink's identity. Raises Refused if the token or the hub's roots are not good, Unavailable."""
    try:
        reply = await uplink.enrol(enrol_request(uplink, join, kind=kind, profile=profile))
    except StaleClock:
        # The uplink knows the hub's time by now; what the request says of its own time must be signed anew, too.
        reply = await uplink.enrol(enrol_request(uplink, join, kind=kind, profile=profile))
    join.check_roots(reply.images_root, reply.director_root)
    return reply


def enrol_request(uplink: Uplink, join: Join, *, kind: Kind, profile: Profile) -> EnrolRequest:
    """What the uplink's identity asks now, by the hub's time as far as it is known."""
    identity, made_at_ms = uplink.identity, int(uplink.hub_time_s() * 1000)
    named = (identity.device_id, join.secret, identity.public_key)
    return EnrolRequest(
        device_id=identity.device_id,
        kind=kind,
        join_secret=join.secret,
        public_key=identity.public_key,
        profile=profile,
        possession=identity.sign_statement(enrol_statement(*named)),
        made_at_ms=made_at_ms,
        fresh=identity.sign_statement(fresh_statement(*named, made_at_ms)),
        roots=join.fingerprint,
    )


def open_client(hub_url: str, *, ca: str | None = None) -> httpx.AsyncClient:
    """An HTTP client for a hub. Raises InvalidInput on an address without TLS that is not loopback."""
    try:
        url = httpx.URL(hub_url)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"{hub_url!r} is no address: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInput(f"{hub_url!r} is no address; expected one such as https://cloud.example.org:8400")
    if url.scheme == "http" and not is_loopback(url.host):
        raise InvalidInput(f"{hub_url} would send everything in the clear; use https:// for other machines")
    try:
        verify = ssl.create_default_context(cafile=ca) if ca else True
        return httpx.AsyncClient(base_url=url, limits=CONNECTIONS, verify=verify)
    except OSError as error:
        raise InvalidInput(f"cannot read the certificate authority {ca}: {error}") from error
