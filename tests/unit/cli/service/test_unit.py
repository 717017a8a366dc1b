"""The unit's text, read back by a parser of its own and by systemd."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeloop.cli.service.files import with_variables
from edgeloop.cli.service.quoting import argument, listed_path, sole_path, variable, word
from edgeloop.cli.service.unit import Service, Tier, unit_text
from edgeloop.contracts.errors import InvalidInput

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NASTY = st.one_of(TEXT, st.text(st.sampled_from("aé $%\\\"'`;#-@{}\n\t\x01\x7f")))
PATHS = st.text(st.characters(exclude_categories=["Cs", "Cc"])).map(lambda tail: f"/srv/{tail}")

_NAMED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "s": " "}


def parsed(line: str, *, escapes: bool = True) -> list[str]:
    """Words as systemd.syntax(7) has them: quotes, C's escapes (or a plain backslash), %% for a percent sign."""
    words, current, quote, at = [], None, "", 0
    while at < len(line):
        one = line[at]
        at += 1
        if one == "\\":
            found = re.compile(r"x([0-9a-f]{2})|(.)", re.DOTALL).match(line, at)
            assert found, "a backslash at the end goes on with the next line"
            at = found.end()
            current = (current or "") + (_escape(found) if escapes else found[0])
        elif quote:
            if one == quote:
                quote = ""
            else:
                current = (current or "") + one
        elif one in "\"'" and current is None:
            quote, current = one, ""
        elif one in " \t\n":
            if current is not None:
                words.append(current)
            current = None
        else:
            current = (current or "") + one
    assert not quote, "a quote was not closed"
    words += [] if current is None else [current]
    assert not any(re.search(r"%(?!%)", one.replace("%%", "")) for one in words), "a specifier"
    return [one.replace("%%", "%") for one in words]


def _escape(found: "re.Match[str]") -> str:
    return chr(int(found[1], 16)) if found[1] else _NAMED.get(found[2], found[2])


def run_by(line: str) -> list[str]:
    """The words that a process is given: a lone dollar would begin a variable."""
    program, *arguments = parsed(line)
    assert not any("$" in one.replace("$$", "") for one in arguments), "a variable"
    return [program, *(one.replace("$$", "$") for one in arguments)]


def camera(**changes: object) -> Service:
    made = Service(
        name="edgeloop-device",
        tier=Tier.DEVICE,
        program=sys.executable,
        arguments=("-P", "-m", "edgeloop", "device", "run", "--dir=/var/lib/edgeloop/device"),
        folder=Path("/var/lib/edgeloop/device"),
        reads=(),
        environment_file=Path("/etc/edgeloop/edgeloop-device.env"),
        account="edgeloop",
    )
    return Service(**{**{name: getattr(made, name) for name in made.__dataclass_fields__}, **changes})  # type: ignore[arg-type]


def setting(text: str, name: str) -> str:
    found = re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)
    assert len(found) == 1, (name, found)
    return str(found[0])


@given(st.lists(NASTY))
def test_command_line_is_given_to_the_process_word_for_word(arguments: list[str]) -> None:
    text = unit_text(camera(arguments=tuple(arguments)))
    assert run_by(setting(text, "ExecStart")) == [sys.executable, *arguments]


@given(PATHS)
def test_paths_in_a_list_mean_themselves(path: str) -> None:
    assert parsed(listed_path(path), escapes=False) == [path]


@given(NASTY)
def test_a_word_is_one_line(text: str) -> None:
    assert "\n" not in word(text)
    assert parsed(word(f"x{text}")) == [f"x{text}"]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_variable_is_read_by_a_shells_rules(value: str) -> None:
    name, _, quoted = variable("TOKEN", value).partition("=")
    assert (name, quoted[0], quoted[-1]) == ("TOKEN", '"', '"')
    assert re.sub(r'\\(["\\`$])', r"\1", quoted[1:-1]) == value
    assert not re.search(r'(?<!\\)(\\\\)*["`$]', quoted[1:-1])


@pytest.mark.parametrize("path", ["/srv/a\nExecStart=/bin/sh", "/srv/a\x1b", "/srv/a\x7f", "/srv/\udcff"])
def test_folder_that_a_unit_cannot_name_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="rename"):
        unit_text(camera(folder=Path(path)))


@pytest.mark.parametrize("path", ["/srv/a\\", "/srv/a "])
def test_folder_that_would_swallow_the_next_line_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match="choose another folder"):
        sole_path(path)


@pytest.mark.parametrize("text", ["a\0b", "caf\udce9"])
def test_what_is_no_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="no text in UTF-8"):
        argument(text)


def test_variable_of_several_lines_is_refused_and_its_value_not_told() -> None:
    with pytest.raises(InvalidInput, match="control characters") as caught:
        variable("TOKEN", "secret\nLD_PRELOAD=/tmp/x.so")
    assert "secret" not in str(caught.value)


def test_variables_that_are_there_stay_and_those_given_are_replaced() -> None:
    there = "# mine\nEDGELOOP_LOG=DEBUG\nEDGELOOP_JOIN=old\n"
    assert (
        with_variables(there, {"EDGELOOP_JOIN": "new"}, name="x") == '# mine\nEDGELOOP_LOG=DEBUG\nEDGELOOP_JOIN="new"\n'
    )
    assert with_variables("", {}, name="x") == ""


def test_device_is_never_given_up_and_waits_for_no_network() -> None:
    text = unit_text(camera())
    assert setting(text, "Restart") == "always"
    assert setting(text, "StartLimitIntervalSec") == "0"
    assert setting(text, "OOMPolicy") == "continue"
    assert "network-online" not in text
    assert "PrivateDevices" not in text, "cameras"


@pytest.mark.parametrize(
    ("place", "home", "temporary"),
    [("/var/lib/edgeloop", "yes", "yes"), ("/home/pi/frames", "read-only", "yes"), ("/tmp/frames", "yes", "no")],
)
def test_walls_leave_a_way_to_what_the_service_reads(place: str, home: str, temporary: str) -> None:
    text = unit_text(camera(program="/opt/edgeloop/bin/python", reads=(Path(place),)))
    assert setting(text, "ProtectHome") == home
    assert setting(text, "PrivateTmp") == temporary
    assert ("/var/tmp" in setting(text, "ReadWritePaths")) is (temporary == "no")


@pytest.mark.parametrize(("port", "capability"), [(None, ""), (8400, ""), (443, "CAP_NET_BIND_SERVICE")])
def test_only_a_low_port_brings_a_capability(port: int | None, capability: str) -> None:
    text = unit_text(camera(tier=Tier.CLOUD, port=port))
    assert setting(text, "CapabilityBoundingSet") == capability
    assert ("AmbientCapabilities" in text) is bool(capability)


def test_own_unit_has_nothing_that_only_root_can_give() -> None:
    text = unit_text(camera(account=None))
    assert setting(text, "WantedBy") == "default.target"
    assert not re.search(r"^(User|UMask|CacheDirectory|Protect|Private|Capability|After|Wants)", text, re.MULTILINE)


ODD = ('--source=/srv/a b/$HOME/100%/"q"/it\'s', "--name=;", "", "--x=${PATH} \\n")


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def complaints(text: str, folder: Path, *, is_own: bool = False) -> list[str]:
    """What systemd says of a unit."""
    path = folder / "edgeloop-device.service"
    path.write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *(["--user"] if is_own else []), str(path)]
    environment = {"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(folder), "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    return [line for line in done.stderr.splitlines() if path.name in line] + [str(done.returncode)] * (
        done.returncode != 0
    )


@needs_systemd
@pytest.mark.parametrize("tier", list(Tier))
@pytest.mark.parametrize("account", ["root", None])
def test_systemd_finds_no_fault_with_it(tier: Tier, account: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "a b 100%"
    folder.mkdir()
    made = camera(tier=tier, account=account, arguments=("-P", "-m", "edgeloop", *ODD), folder=folder, reads=(folder,))
    assert complaints(unit_text(made), tmp_path, is_own=account is None) == []


@needs_systemd
@pytest.mark.parametrize("spoilt", ["Restart=alwys", "Restrt=always", 'ExecStart=/bin/true "'])
def test_systemd_finds_the_faults_that_it_is_asked_for(spoilt: str, tmp_path: Path) -> None:
    assert complaints(unit_text(camera(account="root")).replace("Restart=always", spoilt), tmp_path)
