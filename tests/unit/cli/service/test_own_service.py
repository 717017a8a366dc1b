"""A service of one's own, written to a folder of the test's own: nothing here speaks to systemd."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgeloop.bundle.durable import write_durable
from edgeloop.cli.app import app
from edgeloop.contracts.codec import to_pretty_json
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.states import Kind
from edgeloop.transport.identity import load_or_make_key
from edgeloop.transport.membership import Membership

TOKEN = f"el1.{'s' * 43}.{'0' * 32}"
JOINING = ("--hub", "https://cloud.example.org:8400", "--join", TOKEN)


@dataclass
class Done:
    """What came of a command: its exit code and what it said."""

    returncode: int
    stdout: str
    stderr: str


class Home:
    """Somebody's home, and the command as they type it there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unit = folder / "config/systemd/user/edgeloop-device.service"
        self.variables = folder / "config/edgeloop/edgeloop-device.env"

    def type(self, *words: str, **variables: str) -> Done:
        environment: dict[str, str | None] = {name: None for name in os.environ if name.startswith("EDGELOOP_")}
        environment |= {"XDG_CONFIG_HOME": str(self.folder / "config"), "NO_COLOR": "1", **variables}
        done = CliRunner().invoke(app, words, env=environment)
        if isinstance(done.exception, EdgeloopError):  # as `main` would catch it
            return Done(done.exception.exit_code, done.stdout, str(done.exception))
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    def install(self, *words: str, **environment: str) -> Done:
        return self.type("device", "install-service", "--user", *words, **environment)

    def line(self, start: str) -> str:
        found = [line for line in self.unit.read_text().splitlines() if line.startswith(start)]
        assert len(found) == 1, found
        return found[0]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path)


def test_unit_holds_the_options_with_paths_that_hold_from_anywhere(home: Home) -> None:
    told = ("--dir", "my device", "--source", "frames", "--ttl", "reading=72h", "--ttl", "sample=1h", "--no-cache")
    done = home.install("--json", "--", *JOINING, *told, "--ca", "ca.pem")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "service": "edgeloop-device",
        "unit": str(home.unit),
        "variables": ["EDGELOOP_JOIN"],
        "started": False,
        "next": [
            ["systemctl", "--user", "daemon-reload"],
            ["systemctl", "--user", "enable", "edgeloop-device"],
            ["systemctl", "--user", "restart", "edgeloop-device"],
        ],
    }
    command = home.line("ExecStart=")
    assert command.startswith(f"ExecStart={sys.executable} -P -m edgeloop device run ")
    assert f'"--dir={home.folder}/my device"' in command
    assert f" --source={home.folder}/frames " in command
    assert f" --ca={home.folder}/ca.pem" in command
    assert " --ttl=reading=72h --ttl=sample=1h" in command
    assert " --no-cache " in command
    assert (home.folder / "my device").stat().st_mode & 0o777 == 0o700


def test_secrets_go_to_a_file_of_their_own(home: Home) -> None:
    camera = "rtsp://admin:geheim@10.0.0.7/door"
    done = home.install(
        "--variable", "KEYS", "--", *JOINING, "--source", camera, "--sample-key", "env:KEYS", KEYS='$a"b'
    )
    assert done.returncode == 0, done.stderr
    unit = home.unit.read_text()
    assert TOKEN not in unit + done.stdout + done.stderr
    assert "geheim" not in unit + done.stdout + done.stderr
    lines = home.variables.read_text().splitlines()[1:]
    assert sorted(lines) == [f'EDGELOOP_JOIN="{TOKEN}"', f'EDGELOOP_SOURCE="{camera}"', 'KEYS="\\$a\\"b"']
    assert home.variables.stat().st_mode & 0o777 == 0o600
    assert home.line("EnvironmentFile=") == f"EnvironmentFile=-{home.variables}"


def test_what_the_shell_has_set_reaches_the_service_too(home: Home) -> None:
    done = home.install("--", "--hub", JOINING[1], EDGELOOP_JOIN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert TOKEN in home.variables.read_text()


def test_dashes_may_be_forgotten(home: Home) -> None:
    done = home.install(*JOINING, "--source", "0")
    assert done.returncode == 0, done.stderr
    assert home.line("ExecStart=").endswith("--source=0")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--", *JOINING, "--sourc", "0"), 2, "--sourc"),
        (("--", *JOINING, "--rate-hz", "fast"), 2, "rate-hz"),
        (("--", *JOINING, "--source", "ftp://10.0.0.7/a"), 2, "ftp:// is not read"),
        (("--", *JOINING, "--ttl", "reading=soon"), 2, "soon"),
        (("--", *JOINING, "--outbox-max", "much"), 2, "much"),
        (("--", "--hub", "https://cloud.example.org", "--join", "el1.x"), 2, "this is no join token"),
        (("--", "--source", "0"), 3, "is not enrolled yet"),
        (("--name", "../etc", "--", *JOINING), 2, "'../etc' is not a name"),
        (("--variable", "NOT_SET", "--", *JOINING), 2, "no such variable is set here"),
        (("--", *JOINING, "--sample-key", "env:KEYS"), 2, "give --variable KEYS"),
        (("--", *JOINING, "--dir", "two\nlines"), 2, "holds control characters"),
        (("--run-as", "camera", "--", *JOINING), 2, "--run-as has no meaning with --user"),
        (("--print", "--now", "--", *JOINING), 2, "--now has no meaning with --print"),
    ],
)
def test_what_run_would_not_take_is_refused_before_anything_is_written(
    home: Home, words: tuple[str, ...], code: int, said: str
) -> None:
    done = home.install(*words)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert list(home.folder.iterdir()) == []


def test_printing_writes_nothing(home: Home) -> None:
    done = home.install("--print", "--", *JOINING)
    assert done.stdout.startswith("# Written by 'edgeloop device install-service'")
    assert TOKEN not in done.stdout
    assert list(home.folder.iterdir()) == []


def test_home_that_a_link_leads_to_is_not_hidden(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/opt/edgeloop/bin/python")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    (home.folder / "in").symlink_to("/home/pi/in")
    done = home.type("device", "install-service", "--print", "--", *JOINING, "--source", str(home.folder / "in"))
    assert "ProtectHome=read-only" in done.stdout.splitlines()


def test_enrolled_device_needs_no_token(home: Home) -> None:
    member = Membership(
        device_id="camera-1", kind=Kind.DEVICE, hub_url="http://127.0.0.1:9", images_root=b"i", director_root=b"d"
    )
    write_durable(home.folder / "device/membership.json", to_pretty_json(member))
    load_or_make_key(home.folder / "device/device.pem")
    assert home.install("--", "--source", "0").returncode == 0
    assert not home.variables.exists()


def test_other_unit_of_that_name_is_written_over_only_when_told(home: Home) -> None:
    assert home.install("--", *JOINING).returncode == 0
    first = home.unit.read_text()
    assert home.install("--", *JOINING).returncode == 0  # the same once more
    done = home.install("--", *JOINING, "--source", "0")
    assert done.returncode == 4
    assert "--force" in done.stderr
    assert home.unit.read_text() == first
    other = TOKEN.replace("s", "t")
    done = home.install("--", "--hub", JOINING[1], "--join", other)
    assert done.returncode == 4
    assert TOKEN in home.variables.read_text()
    assert home.install("--force", "--", "--hub", JOINING[1], "--join", other).returncode == 0
    assert other in home.variables.read_text()
    assert TOKEN not in home.variables.read_text()


def test_what_was_written_by_others_is_neither_replaced_nor_removed(home: Home) -> None:
    write_durable(home.unit, b"[Service]\nExecStart=/bin/true\n")
    done = home.install("--", *JOINING)
    assert (done.returncode, "not written by edgeloop" in done.stderr) == (4, True)
    done = home.type("device", "uninstall-service", "--user")
    assert (done.returncode, "remove it by hand" in done.stderr) == (4, True)
    assert home.unit.exists()


def test_service_that_is_not_there_cannot_be_removed(home: Home) -> None:
    done = home.type("device", "uninstall-service", "--user", "--name", "camera-2")
    assert done.returncode == 3
    assert "camera-2.service" in done.stderr


def test_cloud_and_node_have_the_same_command(home: Home) -> None:
    done = home.type("cloud", "install-service", "--user", "--", "--dir", "cloud")
    assert (done.returncode, "there is no cloud" in done.stderr) == (3, True)
    assert home.type("cloud", "init").returncode == 0
    done = home.type("cloud", "install-service", "--user", "--", "--host", "0.0.0.0")
    assert (done.returncode, "give --tls-cert" in done.stderr) == (2, True)
    secret = "postgresql+psycopg://edgeloop:geheim@db.example/edgeloop"
    done = home.type("cloud", "install-service", "--user", "--", "--database", secret)
    assert done.returncode == 0, done.stderr
    assert "geheim" not in (home.unit.parent / "edgeloop-cloud.service").read_text()
    assert f'EDGELOOP_DATABASE="{secret}"' in (home.folder / "config/edgeloop/edgeloop-cloud.env").read_text()
    done = home.type("node", "install-service", "--user", "--name", "gateway", "--", *JOINING, "--no-answer")
    assert done.returncode == 0, done.stderr
    assert "--no-answer" in (home.unit.parent / "gateway.service").read_text()
