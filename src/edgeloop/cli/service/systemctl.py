"""systemctl, asked by a list of words; what it says is told as our errors."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgeloop.contracts.errors import NotFound, Unavailable

_LONGEST_S = 720.0
"""Starting waits until a service says that it is ready, for as long as its unit allows."""


def to_start(name: str, *, is_own: bool) -> list[list[str]]:
    """The commands that take a unit up, and start it anew if it runs."""
    begin = _begin(is_own=is_own)
    return [[*begin, "daemon-reload"], [*begin, "enable", name], [*begin, "restart", name]]


def to_remove(name: str, *, is_own: bool) -> list[list[str]]:
    """The commands that stop it for good."""
    return [[*_begin(is_own=is_own), "disable", "--now", name]]


def to_forget(*, is_own: bool) -> list[list[str]]:
    """The commands that have systemd forget what is no more."""
    return [[*_begin(is_own=is_own), "daemon-reload"]]


def is_running() -> bool:
    """Whether systemd runs this machine. Source: sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()


def ask(commands: Sequence[Sequence[str]], *, name: str, is_own: bool) -> None:
    """Run them one after another. Raises NotFound where there is no systemd, Unavailable if one fails."""
    program = shutil.which("systemctl")
    if program is None or not is_running():
        raise NotFound("systemd does not run this machine, so it cannot start services; leave --now out")
    for words in commands:
        try:
            done = subprocess.run(  # noqa: S603 - words of ours, no shell
                [program, *words[1:]], capture_output=True, text=True, errors="replace", timeout=_LONGEST_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                f"{' '.join(words)} did not end within {_LONGEST_S:.0f} s; {_look(name, is_own)}"
            ) from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().rstrip(".") or f"exit status {done.returncode}"
            raise Unavailable(f"{' '.join(words)}: {said}. {_look(name, is_own)}")


def _begin(*, is_own: bool) -> list[str]:
    return ["systemctl", "--user"] if is_own else ["systemctl"]


def _look(name: str, is_own: bool) -> str:
    return f"'journalctl {'--user ' * is_own}-u {name} -n 20' shows what the service itself said"
