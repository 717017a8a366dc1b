"""A target profile by name, by path, or of this machine."""

from pathlib import Path

from edgeloop.bundle.durable import write_durable
from edgeloop.contracts.codec import from_json, to_pretty_json
from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.toolchain.profiles.known import KNOWN
from edgeloop.toolchain.profiles.measure import this_profile
from edgeloop.toolchain.profiles.target import TargetProfile

THIS = "this"
"""The machine that runs edgeloop: its profile is made on the spot."""

SUFFIX = ".json"


def open_profile(name: str) -> TargetProfile:
    """A profile: a name from `profile_names`, or the path of a .json file that a device's profile was written to.

    `this` states what this machine has and runs; its speed is not in it, since here a model itself is timed. Raises
    NotFound on an unknown name or path, InvalidInput or Corrupt on a file that holds no profile.
    """
    if name == THIS:
        return this_profile()
    if name in KNOWN:
        return KNOWN[name]
    if not name.endswith(SUFFIX):
        raise NotFound(
            f"there is no profile {name!r}; known: {', '.join(profile_names())}, or a {SUFFIX} file that "
            "'edgeloop profile measure --out FILE' wrote on the device"
        )
    path = Path(name)
    if not path.is_file():
        raise NotFound(f"there is no profile at {path}")
    return from_json(path.read_bytes(), TargetProfile, what=str(path))


def save_profile(profile: TargetProfile, path: Path) -> None:
    """Write it for `open_profile` elsewhere. Raises InvalidInput if the name does not end in .json."""
    require_profile_path(path)
    write_durable(path, to_pretty_json(profile))


def require_profile_path(path: Path) -> None:
    """Raise InvalidInput if the name does not end in .json."""
    if path.suffix != SUFFIX:
        raise InvalidInput(f"--out {path} must end in {SUFFIX}")


def profile_names() -> tuple[str, ...]:
    """All that need no file."""
    return (*KNOWN, THIS)
