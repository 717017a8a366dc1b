"""Units of ours under a real systemd, on a machine of their own: what it makes of words, walls and accounts."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeloop.cli.service.unit import Service, Tier, unit_text
from machines import Machine, need_machines

TOKEN = f"el1.{'s' * 43}.{'0' * 32}"
JOINING = f"--hub https://cloud.example.org:8400 --join {TOKEN}"
USERADD = "useradd --system --user-group --no-create-home --shell /usr/sbin/nologin"
FOLDER = Path('/var/lib/edge loop/100% "it\'s" $HOME')
WORDS = (
    "",
    " ",
    "a b",
    "$HOME",
    "${PATH}",
    "$$",
    "%n%%",
    "100%",
    '"',
    "'",
    "\\",
    "\\n",
    "\n",
    "\t",
    ";",
    "#",
    "-x",
    "é☃",
    "\x7f\x01",
)
REPORT = """
import json, os, sys, tempfile

def may_write(path):
    try:
        open(os.path.join(path, "written"), "w").close()
    except OSError:
        return False
    return True

places = [".", os.environ["XDG_CACHE_HOME"], tempfile.gettempdir(), "/etc", "/usr", "/var/lib", "/root", "/home/other"]
report = {
    "words": sys.argv[1:],
    "folder": os.getcwd(),
    "writes": [place for place in places if may_write(place)],
    "sees_home": os.path.exists("/home/other/secret"),
    "capabilities": [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")][0],
    "user": os.getuid(),
}
with open("report.json", "w") as file:
    json.dump(report, file)
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    need_machines()
    with Machine("services", boots=True) as started:
        installed = started.path("/opt/edgeloop")
        installed.unlink(missing_ok=True)
        installed.symlink_to(sys.prefix)
        _typed(
            started,
            f"{USERADD} camera; mkdir -p /home/other; echo geheim > /home/other/secret; chmod -R a+rwX /home/other",
        )
        yield started


def _typed(machine: Machine, script: str, *, code: int = 0) -> str:
    done = machine.run(script)
    assert done.returncode == code, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def _install(machine: Machine, words: str, *, code: int = 0) -> str:
    return _typed(machine, f"NO_COLOR=1 /opt/edgeloop/bin/edgeloop device install-service {words}", code=code)


def test_words_folder_and_walls_are_what_the_unit_says(machine: Machine) -> None:
    service = Service(
        name="report",
        tier=Tier.CLOUD,
        program=sys.executable,
        arguments=("-c", REPORT, *WORDS),
        folder=FOLDER,
        reads=(Path(sys.base_prefix).resolve(),),
        environment_file=Path("/etc/edgeloop/100% none.env"),
        account="camera",
    )
    text = unit_text(service).replace("Type=notify", "Type=oneshot").replace("Restart=always", "Restart=no")
    folder = machine.path("/var/lib") / FOLDER.relative_to("/var/lib")
    folder.mkdir(parents=True)
    machine.path("/etc/systemd/system/report.service").write_text(text)
    _typed(
        machine,
        "chown camera: /var/lib/edge*loop/*; systemctl daemon-reload; systemctl start report",
    )
    report = json.loads((folder / "report.json").read_bytes())
    assert report.pop("words") == list(WORDS)
    assert report.pop("folder") == str(FOLDER)
    assert report.pop("user") != 0
    assert report["writes"][:2] == [".", "/var/cache/report"]
    assert set(report.pop("writes")) - {"."} <= {"/var/cache/report", "/tmp", "/var/tmp"}
    assert int(report.pop("capabilities"), 16) == 0
    # Where the interpreter lies in somebody's home, homes must be seen.
    assert report == {"sees_home": "ProtectHome=read-only" in text}


def test_service_without_an_account_is_refused_with_the_command_that_makes_it(machine: Machine) -> None:
    said = _install(machine, f"--run-as nobody-knows -- --dir /var/lib/new {JOINING}", code=3)
    assert f"{USERADD} nobody-knows" in " ".join(said.split())
    assert not machine.path("/var/lib/new").exists()


def test_folder_of_another_account_is_refused_with_the_command_that_hands_it_over(machine: Machine) -> None:
    words = f"--run-as camera --name foreign -- --dir /var/lib/foreign {JOINING}"
    for script in (
        "mkdir -p -m 700 /var/lib/foreign; touch /var/lib/foreign/outbox.db",
        "chown camera: /var/lib/foreign",
    ):
        _typed(machine, script)
        assert "chown -R camera: /var/lib/foreign" in " ".join(_install(machine, words, code=4).split())
    _typed(machine, "chown -R camera: /var/lib/foreign")
    _install(machine, words)


def test_what_the_account_may_not_read_is_named(machine: Machine) -> None:
    _typed(machine, "mkdir -p /srv/secret; touch /srv/secret/sample.key; chmod 700 /srv/secret")
    words = f"--run-as camera --name sealed -- --dir /var/lib/sealed {JOINING} --sample-key /srv/secret/sample.key"
    assert "may not read or enter /srv/secret" in _install(machine, words, code=4)
    _typed(machine, "chown -R camera: /srv/secret")
    _install(machine, words)


def test_interpreter_that_the_account_cannot_reach_is_named(machine: Machine) -> None:
    _typed(machine, "mkdir -p -m 700 /srv/closed; ln -sfn /opt/edgeloop /srv/closed/edgeloop")
    command = f"/srv/closed/edgeloop/bin/python -P -m edgeloop device install-service --run-as camera -- {JOINING}"
    said = " ".join(_typed(machine, f"cd /srv; {command} --dir /var/lib/closed", code=4).split())
    assert "camera cannot run edgeloop with /srv/closed/edgeloop/bin/python" in said
    assert not machine.path("/var/lib/closed").exists()


def test_folder_that_the_account_cannot_come_to_is_refused(machine: Machine) -> None:
    _typed(machine, "mkdir -p -m 700 /srv/shut")
    said = _install(machine, f"--run-as camera -- --dir /srv/shut/device {JOINING}", code=4)
    assert "may not read or enter /srv/shut" in " ".join(said.split())
    assert not machine.path("/srv/shut/device").exists()


def test_new_folder_is_the_accounts_alone_and_variables_are_roots(machine: Machine) -> None:
    _install(machine, f"--run-as camera --name fresh -- --dir /var/lib/fresh {JOINING}")
    assert _typed(machine, "stat -c '%U %a' /var/lib/fresh /etc/edgeloop/fresh.env").split() == [
        "camera",
        "700",
        "root",
        "600",
    ]


def test_who_may_not_read_what_is_in_a_folder_is_told_so(machine: Machine) -> None:
    _typed(machine, "mkdir -p /var/lib/open; install -m 600 /dev/null /var/lib/open/membership.json")
    other = "setpriv --reuid=nobody --regid=nogroup --clear-groups env NO_COLOR=1 /opt/edgeloop/bin/edgeloop"
    for command in ("device status", "device rollback", "device outbox"):
        said = _typed(machine, f"cd /; {other} {command} --dir /var/lib/open", code=2)
        assert "Run this as root, or as the account whose folder it is" in " ".join(said.split())


def test_start_that_fails_is_told_and_goes_on_by_itself_once_it_can(machine: Machine) -> None:
    """The hub cannot be reached: its name is not known."""
    said = _install(machine, f"--run-as camera --name early --now -- --dir /var/lib/early {JOINING}", code=5)
    assert "journalctl -u early" in " ".join(said.split())
    state = _typed(machine, "systemctl show early -p ActiveState -p Result; systemctl is-enabled early")
    assert "ActiveState=failed" not in state
    assert "enabled" in state
    assert "no answer from https://cloud.example.org:8400" in _typed(machine, "journalctl -u early --no-pager")
    _typed(machine, "/opt/edgeloop/bin/edgeloop device uninstall-service --name early")
    assert "not-found" in _typed(machine, "systemctl show early -p LoadState")


def test_own_service_is_kept_up_by_ones_own_systemd(machine: Machine) -> None:
    _typed(machine, "useradd -m person; install -d -m 700 -o person -g person /run/person")
    login = "-E XDG_RUNTIME_DIR=/run/person -E HOME=/home/person"
    _typed(machine, f"systemd-run -q --unit=own -p User=person -p Delegate=yes {login} /lib/systemd/systemd --user")
    login = "XDG_RUNTIME_DIR=/run/person HOME=/home/person NO_COLOR=1"
    person = f"cd /home/person; setpriv --reuid=person --regid=person --init-groups env {login}"
    _typed(machine, "for _ in $(seq 600); do [ -S /run/person/systemd/private ] && break; sleep 0.1; done")
    command = f"{person} /opt/edgeloop/bin/edgeloop device"
    said = _typed(machine, f"{command} install-service --user --now -- {JOINING}", code=5)
    assert "journalctl --user -u edgeloop-device" in " ".join(said.split())
    state = _typed(machine, f"{person} systemctl --user show edgeloop-device -p ActiveState -p UnitFileState")
    assert "UnitFileState=enabled" in state
    assert "ActiveState=failed" not in state, "it is tried again"
    _typed(machine, f"{command} uninstall-service --user")
    assert _typed(machine, "find /home/person/.config -type f") == ""
