"""The names that travel: of bundles, versions, devices, and how versions compare."""

import ipaddress
import re
from typing import Annotated

import msgspec

from edgeloop.contracts.errors import InvalidInput

_NAME = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_VERSION = r"(?:0|[1-9][0-9]{0,8})\.(?:0|[1-9][0-9]{0,8})\.(?:0|[1-9][0-9]{0,8})"

Name = Annotated[str, msgspec.Meta(pattern=rf"^{_NAME}\Z")]
"""A bundle, device or group name: lower-case letters, digits and dashes, at most 63; safe in a path and a URL."""

Version = Annotated[str, msgspec.Meta(pattern=rf"^{_VERSION}\Z")]
"""MAJOR.MINOR.PATCH in plain numbers, so that versions have one total order."""

Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""A SHA-256 digest in lower-case hex."""


class BundleRef(msgspec.Struct, frozen=True, order=False):
    """A bundle's name and version, written NAME@VERSION.

    >>> BundleRef.parse("digits@1.0.0").version
    '1.0.0'
    """

    name: Name
    version: Version

    def __str__(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"

    @classmethod
    def parse(cls, text: str) -> "BundleRef":
        """Read NAME@VERSION. Raises InvalidInput on anything else."""
        if not re.fullmatch(f"{_NAME}@{_VERSION}", text):
            raise InvalidInput(
                f"{text!r} names no bundle version; expected NAME@MAJOR.MINOR.PATCH, such as digits@1.0.0"
            )
        name, version = text.split("@")
        return cls(name, version)


def require_name(text: str, *, what: str) -> str:
    """The text itself if it is a Name. Raises InvalidInput that says what a name looks like."""
    if not re.fullmatch(_NAME, text):
        raise InvalidInput(
            f"{what} {text!r} is not a name; use 1 to 63 lower-case letters, digits and dashes, such as digits-2"
        )
    return text


def version_key(version: str) -> tuple[int, int, int]:
    """A sort key: newer versions compare greater.

    >>> version_key("1.10.0") > version_key("1.9.3")
    True
    """
    if not re.fullmatch(_VERSION, version):
        raise InvalidInput(f"{version!r} is not a version; expected MAJOR.MINOR.PATCH, such as 1.0.0")
    major, minor, patch = version.split(".")
    return int(major), int(minor), int(patch)


def manifest_target(ref: BundleRef) -> str:
    """The target path of a bundle's manifest."""
    return f"bundles/{ref.name}/{ref.version}/manifest.json"


def file_target(sha256: str) -> str:
    """The target path of a bundle's file."""
    return f"files/{sha256}"


NOTHING = "nothing"
"""In the place of a base's hash: a patch that needs none."""

_OFFER = re.compile(rf"patches/(?P<want>[0-9a-f]{{64}})/(?P<base>[0-9a-f]{{64}}|{NOTHING})")


class PatchName(msgspec.Struct, frozen=True):
    """Which patch is meant: to the content `want` out of the content `base`, by their hashes; base: or NOTHING."""

    want: Sha256
    base: str

    @property
    def offer_path(self) -> str:
        """Where a hub says whether there is one; the patch itself is fetched as any file is, by its own hash."""
        return f"patches/{self.want}/{self.base}"


def parse_offer_path(path: str) -> PatchName | None:
    """Which patch a fetch path asks for; None for any other path."""
    found = _OFFER.fullmatch(path)
    return PatchName(found["want"], found["base"]) if found else None


def is_loopback(host: str) -> bool:
    """True for names and addresses that never leave this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
