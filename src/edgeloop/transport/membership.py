"""Belonging to a hub: enrolment, and what is remembered of it."""

import asyncio
import ssl
from pathlib import Path

import httpx
import msgspec

from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.codec import from_json, to_pretty_json
from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.join import Join, enrol_statement, parse_join_token
from edgeloop.contracts.messages import EnrolRequest, Profile
from edgeloop.contracts.names import is_loopback, require_name
from edgeloop.contracts.states import Kind
from edgeloop.transport.identity import Identity, load_or_make_key, read_key
from edgeloop.transport.uplink import Uplink


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """What a member knows of its hub. Roots are bytes of TUF root metadata, version 1."""

    device_id: str
    kind: Kind
    hub_url: str
    images_root: bytes
    director_root: bytes
    ca: str | None = None


def read_membership(folder: Path) -> Membership:
    """What was remembered in a state folder. Raises NotFound before enrolment."""
    path = folder / "membership.json"
    if not path.is_file():
        raise NotFound(
            f"{folder} is not enrolled yet; pass --hub URL and --join TOKEN once ('edgeloop fleet token' prints one)"
        )
    return from_json(path.read_bytes(), Membership, what=str(path))


def open_identity(folder: Path, device_id: str) -> Identity:
    """The enrolled identity of a state folder."""
    return Identity(device_id, read_key(folder / "device.pem"))


def enrol(
    folder: Path, *, hub_url: str, token: str, device_id: str, kind: Kind, profile: Profile, ca: str | None = None
) -> Membership:
    """`join_hub` with a token as text, unless this folder belongs to that hub under that id already: a unit file
    with its token must start without a network. Raises InvalidInput if it is no token.
    """
    join = parse_join_token(token)
    if (folder / "membership.json").is_file():
        member = read_membership(folder)
        if (member.hub_url, member.device_id, member.kind) == (hub_url, device_id, kind):
            return member
    joining = join_hub(folder, hub_url=hub_url, join=join, device_id=device_id, kind=kind, profile=profile, ca=ca)
    return asyncio.run(joining)


async def join_hub(
    folder: Path, *, hub_url: str, join: Join, device_id: str, kind: Kind, profile: Profile, ca: str | None = None
) -> Membership:
    """Enrol with a join token and remember it. The key is made here and never leaves.

    Raises Refused if the token or the hub's roots are not good, Unavailable if the hub is away.
    """
    identity = Identity(require_name(device_id, what="device id"), load_or_make_key(folder / "device.pem"))
    async with open_client(hub_url, ca=ca) as client:
        reply = await Uplink(client, identity).enrol(
            EnrolRequest(
                device_id=device_id,
                kind=kind,
                join_secret=join.secret,
                public_key=identity.public_key,
                profile=profile,
                possession=identity.sign_statement(enrol_statement(device_id, join.secret, identity.public_key)),
            )
        )
    join.check_roots(reply.images_root, reply.director_root)
    member = Membership(
        device_id=reply.device_id,
        kind=kind,
        hub_url=hub_url,
        images_root=reply.images_root,
        director_root=reply.director_root,
        ca=ca,
    )
    write_durable(folder / "membership.json", to_pretty_json(member), mode=0o600)
    return member


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
    limits = httpx.Limits(max_connections=20, max_keepalive_connections=10)
    try:
        verify = ssl.create_default_context(cafile=ca) if ca else True
        return httpx.AsyncClient(base_url=url, limits=limits, verify=verify)
    except OSError as error:
        raise InvalidInput(f"cannot read the certificate authority {ca}: {error}") from error
