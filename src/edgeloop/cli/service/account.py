"""The account that a service runs as: whether it is there, and whether it can reach what the service needs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeloop.bundle.durable import make_folder, translated
from edgeloop.contracts.errors import InvalidInput, NotFound, Refused

_FOR_SENSORS = ("video", "audio", "render")
_TRY_S = 60.0
# As the account: which of these paths may it not read, or, as the first one, enter? Importing the package shows that it
# reaches that, too.
_TRIAL = """
import edgeloop, json, os, sys
way, *paths = sys.argv[1:]
barred = [path for path in paths if not os.access(path, os.R_OK)]
print(json.dumps(barred + [way] * (not os.access(way, os.X_OK))))
"""


@dataclass(frozen=True)
class Account:
    """Somebody to run as. groups: ids of all groups that it is in, with those that a service adds."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def find_account(name: str, *, extra: Sequence[str] = ()) -> Account:
    """The account of this name. extra: names of more groups. Raises NotFound if there is none."""
    import grp
    import pwd

    try:
        found = pwd.getpwnam(name)
    except KeyError as error:
        raise NotFound(
            f"there is no account {name} here to run the service as. Make it with 'useradd --system --user-group "
            f"--no-create-home --shell /usr/sbin/nologin {name}', or name another one with --run-as."
        ) from error
    groups = (*os.getgrouplist(name, found.pw_gid), *(grp.getgrnam(one).gr_gid for one in extra))
    return Account(name, found.pw_uid, found.pw_gid, tuple(dict.fromkeys(groups)))


def groups_for_sensors() -> tuple[str, ...]:
    """Those of the groups that cameras, microphones and accelerators belong to that there are on this machine."""
    import grp

    there = {one.gr_name for one in grp.getgrall()}
    return tuple(name for name in _FOR_SENSORS if name in there)


def give_folder(folder: Path, account: Account | None) -> None:
    """Make the folder if it is not there, as the account's alone, in folders that all may enter; None: our own. Raises
    Refused if it is somebody else's, InvalidInput or Unavailable if it cannot be made."""
    with translated(folder, doing="write"):
        if not folder.exists():
            above = [one for one in folder.parents if not one.exists()]
            make_folder(folder)
            folder.chmod(0o700)
            if account is not None:
                os.chown(folder, account.uid, account.gid)
                for one in above:  # root's, and by root's umask perhaps for nobody else to enter
                    one.chmod(0o755)
        if account is None:
            return
        strangers = [path for path in (folder, *folder.iterdir()) if path.lstat().st_uid != account.uid]
    if strangers and account.uid != 0:
        raise Refused(
            f"{strangers[0]} belongs to another account than {account.name}, which is to run the service: hand it over "
            f"with 'chown -R {account.name}: {folder}', or name its owner with --run-as"
        )


def try_as(account: Account, program: str, *, reads: Iterable[Path], enters: Path) -> None:
    """Run the interpreter as the account: can it, may it read these paths, and enter this folder? What is not there yet
    may come; of the way to the folder then what is there counts. Raises Refused if not.
    """
    there, is_root = [str(path) for path in reads if path.exists()], os.geteuid() == 0
    way = next(one for one in (enters, *enters.parents) if one.exists())
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter that runs this
            [program, "-P", "-c", _TRIAL, str(way), *there],
            cwd="/",
            capture_output=True,
            timeout=_TRY_S,
            check=True,
            user=account.uid if is_root else None,
            group=account.gid if is_root else None,
            extra_groups=account.groups if is_root else None,
        )
        barred = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError) as error:
        raise Refused(
            f"{account.name} cannot run edgeloop with {program}: {_why(error)}. Install it where all may read, such as "
            "in /opt/edgeloop, or name another account with --run-as."
        ) from error
    if barred:
        raise Refused(
            f"{account.name}, which is to run the service, may not read or enter {', '.join(barred)}: let it, such as "
            "with 'chgrp' and 'chmod g+rX', in the folders above, too, or name another account with --run-as"
        )


def _why(error: Exception) -> str:
    said = getattr(error, "stderr", None)
    return said.decode(errors="replace").strip().rpartition("\n")[2] if said else str(error)


def require_linux(*, root: bool) -> None:
    """Raise InvalidInput unless there can be systemd here. root: and this process may write for the whole machine."""
    if sys.platform != "linux":
        raise InvalidInput("services of systemd are there on Linux only")
    if root and os.geteuid() != 0:
        raise InvalidInput(
            "a service of the whole machine needs root: run this with sudo, or give --user for one of your own, which "
            "runs while you are logged in ('loginctl enable-linger' lets it run always)"
        )
