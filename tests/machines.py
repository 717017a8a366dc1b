"""Whole machines on this one, for tests: namespaces of their own, this machine's files as a copy that vanishes, systemd
as their first process, and links between them. Nothing of it is left when the test ends.

Needs Linux, root, systemd, iproute2, and the permission to make namespaces and overlays; else a reason to skip.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
SYSTEMD = Path("/lib/systemd/systemd")
START_S = 60.0
COMMAND_S = 120.0
_MASKED = """
sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount
dev-hugepages.mount dev-mqueue.mount systemd-modules-load.service modprobe@.service systemd-binfmt.service
systemd-journald-audit.socket
"""
# In a mount namespace of its own. $1: an empty folder; $2: units to leave out, as they are about the kernel, which is
# not this machine's; then what must be seen though it may be mounted apart, a --, and what becomes the first process.
_BOOT = """
set -eu
base=$1; masked=$2; root=$base/root; shift 2
mount -t tmpfs -o mode=755 tmpfs "$base"
mkdir "$base/up" "$base/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$base/up,workdir=$base/work" overlay "$root"
cd "$root"
mount -t tmpfs -o mode=1777 tmpfs tmp
while [ "$1" != -- ]; do
    mkdir -p ".$1"; mount --bind "$1" ".$1"; mount -o remount,bind,ro ".$1"
    place=$(dirname "$1"); while [ "$place" != / ]; do chmod o+x ".$place"; place=$(dirname "$place"); done
    shift
done
shift
mount -t proc proc proc
mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
while read -r device numbers; do mknod -m 666 "dev/$device" c $numbers; done <<END
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
END
mkdir dev/shm dev/pts; ln -s /proc/self/fd dev/fd; ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
: > etc/fstab
rm -rf etc/systemd/system/*.wants etc/systemd/system/edgeloop* etc/edgeloop var/lib/edgeloop*
for unit in $masked; do ln -sf /dev/null "etc/systemd/system/$unit"; done
mkdir old; pivot_root . old; umount -l /old; rmdir /old
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@" </dev/null
"""


def need_machines() -> None:
    """Skip the test where there can be none."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("machines of their own need Linux and root")
    missing = [name for name in ("unshare", "nsenter", "ip", "systemctl") if shutil.which(name) is None]
    if missing or not SYSTEMD.exists():
        pytest.skip(f"not installed: {', '.join(missing) or SYSTEMD}")


class Machine:
    """One of them. Used in `with`; skips the test if this machine may not make another."""

    def __init__(self, name: str, *, boots: bool) -> None:
        self.name = name
        self._boots = boots
        self._folder = Path(tempfile.mkdtemp(prefix=f"edgeloop-{name}-"))
        self._log = self._folder.with_suffix(".log")
        self._group: Path | None = None
        self._handle: subprocess.Popen[bytes] | None = None
        self._first: psutil.Process | None = None

    def __enter__(self) -> "Machine":
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its first process, as this machine knows it."""
        assert self._first is not None
        return self._first.pid

    def path(self, inside: str) -> Path:
        """A path of its, as seen from here."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def run(self, script: str, *, timeout_s: float = COMMAND_S) -> "subprocess.CompletedProcess[str]":
        """What somebody logged in as root types there; ends at the first failure."""
        command = ["nsenter", "-t", str(self.pid), "-a", "env", "-i", "-C", "/root", *_LOGIN]
        return subprocess.run(
            [*command, "bash", "-euo", "pipefail", "-c", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def stop(self) -> None:
        """End it with all that runs in it."""
        if self._first is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._first.send_signal(signal.SIGKILL)  # the first process takes all others of its namespace along
        if self._handle is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._handle.wait(START_S)
        if self._group is not None:
            _remove_groups(self._group)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._log.unlink(missing_ok=True)

    def _start(self) -> None:
        self._group = _make_group(f"edgeloop-{self.name}-{os.getpid()}")
        first = [str(SYSTEMD), "--system", "--unit=basic.target", "--show-status=no", "--log-target=console"]
        needed = {Path(one).resolve() for one in (ROOT, sys.prefix, sys.base_prefix)}
        # A checkout has its environment within itself.
        seen = sorted(str(one) for one in needed if needed.isdisjoint(one.parents))
        enter = 'echo $$ > "$1/cgroup.procs"; shift; exec unshare "$@"'
        with self._log.open("wb") as log:
            self._handle = subprocess.Popen(
                [
                    *("sh", "-c", enter, "enter", str(self._group)),
                    *("--mount", "--pid", "--fork", "--kill-child", "--net", "--uts", "--ipc", "--cgroup"),
                    *("--propagation", "private", "sh", "-c", _BOOT, "boot", str(self._folder), _MASKED, *seen, "--"),
                    *(first if self._boots else ["sleep", "infinity"]),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until_s = time.monotonic() + START_S
        while not self._is_up():
            if self._handle.poll() is not None:
                pytest.skip(f"no machine can be made here: {self._log.read_text(errors='replace')[-300:]}")
            assert time.monotonic() < until_s, self._log.read_text(errors="replace")[-2000:]
            time.sleep(0.05)

    def _is_up(self) -> bool:
        assert self._handle is not None
        children = psutil.Process(self._handle.pid).children()
        program = "systemd" if self._boots else "sleep"
        if not children or children[0].name() != program:
            return False
        self._first = children[0]
        if not self._boots:
            return True
        state = self.run("systemctl is-system-running || true").stdout.strip()
        return state in ("running", "degraded")


_LOGIN = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LANG=C.UTF-8",
    "COLUMNS=120",
)


def link(one: Machine, one_address: str, other: Machine, other_address: str) -> None:
    """A cable between two, each end with its address."""
    ends = [f"to-{other.name}"[:15], f"to-{one.name}"[:15]]
    peer = ["peer", "name", ends[1], "netns", str(other.pid)]
    _ip("link", "add", ends[0], "netns", str(one.pid), "type", "veth", *peer)
    for machine, end, own, far in (
        (one, ends[0], one_address, other_address),
        (other, ends[1], other_address, one_address),
    ):
        done = machine.run(f"ip addr add {own} peer {far} dev {end}; ip link set {end} up; ip link set lo up")
        assert done.returncode == 0, done.stderr


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=COMMAND_S)
    if done.returncode != 0:
        pytest.skip(f"no link can be made here: {done.stderr.strip()}")


def _make_group(name: str) -> Path:
    """A control group for a machine's processes, else its systemd would take this machine's."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            own = next(one for one in Path("/proc/self/cgroup").read_text().splitlines() if one.startswith("0::"))
            group = Path(place, own.removeprefix("0::/"), name)
            try:
                group.mkdir()
            except OSError as error:
                pytest.skip(f"no control group can be made here: {error}")
            return group
    pytest.skip("there are no control groups of version 2 here")


def _remove_groups(top: Path) -> None:
    until_s = time.monotonic() + START_S
    folders: Iterable[Path] = sorted((one for one in (top, *top.rglob("*")) if one.is_dir()), reverse=True)
    for folder in folders:
        while folder.exists():
            try:
                folder.rmdir()
            except OSError:  # the last processes are still on their way out
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.02)
