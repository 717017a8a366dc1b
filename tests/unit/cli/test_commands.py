import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

import edgeloop
from builders import LABELS, make_bundle, quadrant_images
from builds import make_build
from edgeloop.bundle.archive import open_bundle
from edgeloop.bundle.durable import write_durable
from edgeloop.cli.app import app
from edgeloop.contracts.codec import to_pretty_json
from edgeloop.contracts.errors import EdgeloopError
from edgeloop.contracts.states import Kind
from edgeloop.runtime.input.images import encode_png
from edgeloop.transport.identity import load_or_make_key
from edgeloop.transport.membership import Membership


def _run(*arguments: object, stdin: bytes = b"") -> Result:
    """A command in this process; an EdgeloopError comes back as `exception`, as `main` would catch it."""
    return CliRunner().invoke(app, [str(one) for one in arguments], input=stdin)


def _done(*arguments: object, stdin: bytes = b"") -> str:
    result = _run(*arguments, stdin=stdin)
    assert result.exception is None, result.exception
    return result.stdout


def _failed(*arguments: object, stdin: bytes = b"") -> tuple[int, str]:
    """Exit code and message."""
    result = _run(*arguments, stdin=stdin)
    assert isinstance(result.exception, EdgeloopError), (result.exception, result.output)
    return result.exception.exit_code, str(result.exception)


def _process(*arguments: object, cwd: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "edgeloop", *(str(one) for one in arguments)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EDGELOOP_")}
    return subprocess.run(command, capture_output=True, cwd=cwd, input=stdin, env=environment, check=False, timeout=60)


def _tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def _lines(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for index, image in enumerate(quadrant_images(4)):
        write_durable(folder / f"{index}.png", encode_png(image))
    return folder


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as handle:
        handle.bind(("127.0.0.1", 0))
        handle.listen()
        yield handle.getsockname()[1]


# ---- the exit codes, end to end


def test_wrong_input_exits_with_2(tmp_path: Path) -> None:
    done = _process("train", "digits", "--out", "model.h5", cwd=tmp_path)
    assert (done.returncode, done.stderr.decode().strip()) == (
        2,
        "invalid_input: --out model.h5 must end in .keras",
    )


def test_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    assert _process("predict", cwd=tmp_path).returncode == 2


def test_missing_thing_exits_with_3(tmp_path: Path) -> None:
    done = _process("inspect", "nowhere.edgeloop", cwd=tmp_path)
    assert (done.returncode, done.stderr.decode().startswith("not_found: no bundle at nowhere.edgeloop")) == (3, True)


def test_refusal_exits_with_4_and_writes_nothing(tmp_path: Path) -> None:
    make_build(tmp_path / "build")
    arguments = ("--name", "tiny", "--version", "1.0.0", "--out", "tiny.edgeloop", "--max-size-kb", "0.1")
    before = _tree(tmp_path)
    done = _process("pack", "build", *arguments, cwd=tmp_path)
    assert (done.returncode, _tree(tmp_path)) == (4, before)
    assert "tiny@1.0.0 is not written: onnxruntime float32 has" in done.stderr.decode()


def test_port_in_use_exits_with_5_and_names_it(tmp_path: Path, taken_port: int) -> None:
    _done("cloud", "init", "--dir", tmp_path / "cloud", "--keys", tmp_path / "keys")
    done = _process("cloud", "serve", "--port", taken_port, cwd=tmp_path)
    assert done.returncode == 5
    assert f"unavailable: cannot listen on 127.0.0.1 port {taken_port}" in done.stderr.decode()


def test_damaged_bundle_exits_with_6(tmp_path: Path, bundle: Path) -> None:
    bundle.write_bytes(bundle.read_bytes()[:-100])
    done = _process("inspect", bundle, cwd=tmp_path)
    assert (done.returncode, done.stderr.decode().startswith("corrupt: ")) == (6, True)


def test_errors_leave_standard_output_to_results(tmp_path: Path) -> None:
    assert _process("inspect", "nowhere.edgeloop", cwd=tmp_path).stdout == b""


def test_errors_show_no_traceback(tmp_path: Path) -> None:
    assert b"Traceback" not in _process("inspect", "nowhere.edgeloop", cwd=tmp_path).stderr


@pytest.mark.parametrize("name", ["a[1].edgeloop", "a[red].edgeloop", "a[/].edgeloop"])
def test_message_shows_what_came_as_it_came(tmp_path: Path, name: str) -> None:
    assert f"no bundle at {name};" in _process("inspect", name, cwd=tmp_path).stderr.decode()


def test_closed_pipe_ends_quietly(bundle: Path, images: Path) -> None:
    command = f"set -o pipefail; {sys.executable} -m edgeloop predict {bundle} {images} --json | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False, timeout=60)
    assert done.stderr == b""


# ---- help and version


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    for name, one in getattr(command, "commands", {}).items():
        yield from _commands(one, (*path, name))


COMMANDS = list(_commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    assert "Usage:" in _done(*path, "--help")


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does(path: tuple[str, ...]) -> None:
    command: Any = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]
    assert (command.help or "").strip()


def test_there_is_a_command_for_every_noun() -> None:
    assert {path[0] for path in COMMANDS if path} == {
        *("cloud", "node", "device", "worker", "fleet", "bundle", "rollout", "sample", "job", "data", "profile"),
        *("train", "transfer", "distil", "prune", "quantize", "convert", "check", "compress", "compare", "repeat"),
        *("pack", "inspect", "predict", "watch", "bench", "enrol", "serve", "doctor", "demo"),
        *("access", "keys", "tls", "sample-key"),
    }


def test_version_is_the_packages() -> None:
    assert _done("--version").strip() == f"edgeloop {edgeloop.__version__}"


# ---- predict


def test_image_is_predicted(bundle: Path, images: Path) -> None:
    (line,) = _lines(_done("predict", bundle, images / "2.png", "--json"))
    assert (line["source"], line["prediction"]["label"]) == ("2.png", LABELS[2])  # type: ignore[index]


def test_folder_is_predicted_in_name_order(bundle: Path, images: Path) -> None:
    lines = _lines(_done("predict", bundle, images, "--json"))
    assert [(line["source"], line["prediction"]["label"]) for line in lines] == [  # type: ignore[index]
        (f"{index}.png", LABELS[index]) for index in range(4)
    ]


def test_standard_input_is_predicted(bundle: Path, images: Path, tmp_path: Path) -> None:
    done = _process("predict", bundle, "-", "--json", cwd=tmp_path, stdin=(images / "3.png").read_bytes())
    (line,) = _lines(done.stdout.decode())
    assert (line["source"], line["prediction"]["label"]) == ("stdin", LABELS[3])  # type: ignore[index]


def test_table_shows_image_and_label(bundle: Path, images: Path) -> None:
    output = _done("predict", bundle, images)
    assert all(text in output for text in ("0.png", "3.png", "top_left", "tiny@1.0.0 on onnxruntime float32"))


def test_file_that_is_no_image_is_corrupt_and_named(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no image")
    result = _run("predict", bundle, tmp_path / "notes.png")
    assert isinstance(result.exception, EdgeloopError)
    assert (result.exception.exit_code, "notes.png" in result.stderr) == (6, True)


def test_empty_standard_input_is_corrupt(bundle: Path, tmp_path: Path) -> None:
    done = _process("predict", bundle, "-", cwd=tmp_path)
    assert done.returncode == 6
    assert b"empty" in done.stderr


def test_one_bad_image_does_not_stop_the_others(bundle: Path, images: Path) -> None:
    (images / "1.png").write_text("no image")
    result = _run("predict", bundle, images, "--json")
    assert isinstance(result.exception, EdgeloopError)
    assert (result.exception.exit_code, [line["source"] for line in _lines(result.stdout)]) == (
        6,
        ["0.png", "2.png", "3.png"],
    )


def test_folder_without_images_is_not_found(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, message = _failed("predict", bundle, tmp_path / "empty")
    assert (code, "holds no file to read; expected files ending in .png" in message) == (3, True)


def test_missing_image_is_not_found(bundle: Path) -> None:
    assert _failed("predict", bundle, "nowhere.png") == (3, "there is no file, folder or camera nowhere.png")


def test_unknown_engine_names_the_known_ones(bundle: Path, images: Path) -> None:
    code, message = _failed("predict", bundle, images, "--engine", "tvm")
    assert (code, message) == (2, "there is no engine 'tvm'; known: litert, onnxruntime, openvino")


def test_engine_that_the_bundle_has_no_variant_for_is_unavailable(bundle: Path, images: Path) -> None:
    code, message = _failed("predict", bundle, images, "--engine", "litert")
    assert (code, "it offers onnxruntime float32; here that is litert" in message) == (5, True)


def test_folder_named_like_an_image_is_passed_over(bundle: Path, images: Path) -> None:
    (images / "9.png").mkdir()
    assert len(_lines(_done("predict", bundle, images, "--json"))) == 4


# ---- inspect, pack, train, convert, data


def test_inspect_shows_what_a_bundle_holds(bundle: Path) -> None:
    output = _done("inspect", bundle)
    assert all(text in output for text in ("tiny@1.0.0", "top_left", "onnxruntime float32", "16 golden samples"))


def test_inspect_gives_the_manifest_to_machines(bundle: Path) -> None:
    assert json.loads(_done("inspect", bundle, "--json")) == json.loads(open_bundle(bundle).manifest_bytes)


def test_inspect_checks_every_file(bundle: Path) -> None:
    golden = open_bundle(bundle)
    data = golden.read(golden.manifest.golden.inputs)
    bundle.write_bytes(bundle.read_bytes().replace(data, data[:-1] + bytes([data[-1] ^ 1])))
    assert _failed("inspect", bundle)[0] == 6


def test_inspect_shows_labels_in_brackets(tmp_path: Path) -> None:
    archive = make_bundle(tmp_path, labels=("[red]", "[/]", "[b]", "plain"))
    assert "[red] [/] [b] plain" in _done("inspect", archive)


PACK = ("--name", "tiny", "--version", "1.0.0", "--out")


def test_pack_writes_a_bundle(tmp_path: Path) -> None:
    make_build(tmp_path / "build")
    _done("pack", tmp_path / "build", *PACK, tmp_path / "tiny.edgeloop")
    assert str(open_bundle(tmp_path / "tiny.edgeloop").manifest.ref) == "tiny@1.0.0"


def test_pack_without_a_build_says_how_to_make_one(tmp_path: Path) -> None:
    code, message = _failed("pack", tmp_path / "nowhere", *PACK, tmp_path / "tiny.edgeloop")
    assert (code, "edgeloop convert MODEL --out" in message) == (3, True)
    assert _tree(tmp_path) == set()


def test_pack_of_a_wrong_version_writes_nothing(tmp_path: Path) -> None:
    make_build(tmp_path / "build")
    before = _tree(tmp_path)
    arguments = ("--name", "tiny", "--version", "one", "--out", tmp_path / "tiny.edgeloop")
    assert (_failed("pack", tmp_path / "build", *arguments)[0], _tree(tmp_path)) == (2, before)


def test_convert_of_an_unknown_format_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"anything")
    code, message = _failed("convert", tmp_path / "model.bin", "--to", "litert")
    assert (code, "model.bin has the format '.bin'" in message) == (2, True)
    assert _tree(tmp_path) == {"model.bin"}


def test_convert_to_an_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    result = _run("convert", "model.keras", "--to", "tvm", "--out", tmp_path / "build")
    assert (result.exit_code, "'litert'" in result.stderr and "'onnx'" in result.stderr) == (2, True)


def test_convert_of_a_missing_model_is_not_found(tmp_path: Path) -> None:
    arguments = (tmp_path / "model.keras", "--to", "litert", "--out", tmp_path / "build", "--calibrate", "digits")
    assert (_failed("convert", *arguments)[0], _tree(tmp_path)) == (3, set())


@pytest.mark.parametrize(
    ("arguments", "code"), [(("letters",), 3), (("digits", "--data", "nowhere"), 3)], ids=["dataset", "folder"]
)
def test_train_on_what_is_not_there_writes_nothing(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    assert (_failed("train", *arguments, "--out", tmp_path / "m.keras")[0], _tree(tmp_path)) == (code, set())


def test_exported_data_are_named_by_number_and_label(tmp_path: Path) -> None:
    names = json.loads(_done("data", "export", "digits", "--out", tmp_path, "--count", "3", "--json"))
    assert _tree(tmp_path) == set(names)
    assert [name[:6] for name in names] == ["00000-", "00001-", "00002-"]


def test_unknown_part_of_the_data_writes_nothing(tmp_path: Path) -> None:
    code, message = _failed("data", "export", "digits", "--out", tmp_path, "--part", "fit")
    assert (code, message, _tree(tmp_path)) == (2, "there is no part 'fit'; choose field or holdout", set())


# ---- cloud, device, operator


def _init(tmp_path: Path) -> Result:
    return _run("cloud", "init", "--dir", tmp_path / "cloud", "--keys", tmp_path / "keys", "--json")


def test_cloud_is_founded(tmp_path: Path) -> None:
    made = json.loads(_init(tmp_path).stdout)
    assert all(Path(path).exists() for path in made.values())


def test_cloud_is_tidied_with_an_account(tmp_path: Path) -> None:
    _init(tmp_path)
    done = _run(
        "cloud", "tidy", "--dir", tmp_path / "cloud", "--keep-readings", "90d", "--keep-samples", "720h", "--json"
    )
    names = ("readings", "alerts", "samples", "sample_bytes", "blobs", "devices_passed_over")
    assert json.loads(done.stdout) == dict.fromkeys(names, 0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((), "--keep-readings"),
        (("--keep-readings", "5min"), "an hour is the least"),
        (("--keep-alerts", "long"), "no duration"),
    ],
)
def test_tidying_that_makes_no_sense_is_invalid_input(tmp_path: Path, given: tuple[str, ...], told: str) -> None:
    _init(tmp_path)
    code, message = _failed("cloud", "tidy", "--dir", tmp_path / "cloud", *given)
    assert (code, told in message) == (2, True)


def test_cloud_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    _init(tmp_path)
    modes = {path.stat().st_mode & 0o777 for path in (*tmp_path.rglob("*.pem"), tmp_path / "cloud" / "operator.json")}
    assert modes == {0o600}


def test_second_cloud_in_one_folder_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    _init(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    result = _init(tmp_path)
    assert isinstance(result.exception, EdgeloopError)
    assert (result.exception.exit_code, {path: path.read_bytes() for path in before}) == (2, before)


def test_serving_no_cloud_says_how_to_make_one(tmp_path: Path) -> None:
    code, message = _failed("cloud", "serve", "--dir", tmp_path / "nowhere", "--port", 0)
    assert (code, "edgeloop cloud init" in message, _tree(tmp_path)) == (3, True, set())


def test_serving_others_without_tls_is_refused(tmp_path: Path) -> None:
    _init(tmp_path)
    code, message = _failed("cloud", "serve", "--dir", tmp_path / "cloud", "--host", "0.0.0.0")
    assert (code, "--tls-cert and --tls-key" in message) == (2, True)


def test_missing_operator_file_says_where_it_comes_from(tmp_path: Path) -> None:
    code, message = _failed("fleet", "list", "--operator", tmp_path / "operator.json")
    assert (code, "'edgeloop cloud init' writes one" in message) == (3, True)


def test_cloud_that_is_away_is_unavailable_and_named(tmp_path: Path) -> None:
    operator = tmp_path / "operator.json"
    operator.write_text('{"url": "http://127.0.0.1:9", "token": "t"}')
    code, message = _failed("fleet", "list", "--operator", operator)
    assert (code, "127.0.0.1:9" in message) == (5, True)


def test_source_that_no_device_could_ever_read_is_refused(tmp_path: Path) -> None:
    # A folder or camera that is not there is waited for; this names nothing that could come.
    code, message = _failed("device", "run", "--dir", tmp_path / "d", "--source", "gopher://camera/1")
    assert (code, "gopher" in message, _tree(tmp_path)) == (2, True, set())


@pytest.mark.parametrize("command", ["run", "status"])
def test_device_that_is_not_enrolled_says_how_to(tmp_path: Path, command: str) -> None:
    code, message = _failed("device", command, "--dir", tmp_path / "d")
    assert (code, "--hub URL and --join TOKEN" in message, _tree(tmp_path)) == (3, True, set())


@pytest.mark.parametrize("command", ["device", "node"])
def test_join_token_that_is_none_leaves_nothing(tmp_path: Path, command: str) -> None:
    arguments = ("--dir", tmp_path / "d", "--hub", "http://127.0.0.1:9", "--join", "letmein")
    code, message = _failed(command, "run", *arguments)
    assert (code, "expected el1.SECRET.FINGERPRINT" in message, _tree(tmp_path)) == (2, True, set())


def test_hub_in_the_clear_is_refused(tmp_path: Path) -> None:
    token = f"el1.{'s' * 43}.{'0' * 32}"
    code, message = _failed("device", "run", "--dir", tmp_path / "d", "--hub", "http://10.0.0.5", "--join", token)
    assert (code, "use https://" in message) == (2, True)


@pytest.fixture
def enrolled(tmp_path: Path) -> Path:
    folder = tmp_path / "device"
    member = Membership(
        device_id="camera-1", kind=Kind.DEVICE, hub_url="http://127.0.0.1:9", images_root=b"i", director_root=b"d"
    )
    write_durable(folder / "membership.json", to_pretty_json(member))
    load_or_make_key(folder / "device.pem")
    return folder


def test_status_needs_no_network(enrolled: Path) -> None:
    facts = json.loads(_done("device", "status", "--dir", enrolled, "--json"))
    assert (facts["id"], facts["active"], facts["outbox_pending"]) == ("camera-1", None, 0)


def test_device_that_lost_its_key_is_told_so(enrolled: Path) -> None:
    (enrolled / "device.pem").unlink()
    assert "device.pem" in _failed("device", "run", "--dir", enrolled)[1]


@pytest.mark.parametrize("label", ["kitchen", "=kitchen", "room="])
def test_label_that_is_none_is_refused(label: str) -> None:
    assert _failed("fleet", "token", "--label", label) == (2, f"label {label!r} is not NAME=VALUE")


# ---- doctor


def _findings(*arguments: object) -> tuple[int, list[dict[str, object]]]:
    result = _run("doctor", "--json", *arguments)
    code = result.exception.exit_code if isinstance(result.exception, EdgeloopError) else result.exit_code
    return code, json.loads(result.stdout)


def test_doctor_has_a_fix_for_everything_that_is_not_ok(enrolled: Path) -> None:
    (enrolled / "device.pem").chmod(0o644)
    operator = enrolled / "operator.json"
    operator.write_text('{"url": "http://127.0.0.1:9", "token": "t"}')
    code, findings = _findings("--dir", enrolled, "--operator", operator)
    wrong = [one for one in findings if one["state"] != "ok"]
    assert {"key device.pem", "cloud"} <= {one["what"] for one in wrong}
    assert (code, all(one["fix"] for one in wrong)) == (5, True)


def test_doctor_looks_at_python_engines_clock_and_disk(tmp_path: Path) -> None:
    _, findings = _findings("--dir", tmp_path, "--operator", tmp_path / "none.json")
    assert {"python", "tls", "engine litert", "engine onnxruntime", "clock", "disk", "keys", "cloud"} <= {
        one["what"] for one in findings
    }


def test_doctor_is_content_with_a_sound_device(enrolled: Path) -> None:
    code, findings = _findings("--dir", enrolled, "--operator", enrolled / "none.json")
    assert (code, [one for one in findings if one["state"] == "error"]) == (0, [])


def test_doctor_names_the_command_that_mends_a_key(enrolled: Path) -> None:
    (enrolled / "device.pem").chmod(0o640)
    _, findings = _findings("--dir", enrolled, "--operator", enrolled / "none.json")
    (key,) = [one for one in findings if one["what"] == "key device.pem"]
    assert (key["state"], key["fix"]) == ("error", f"chmod 600 {enrolled / 'device.pem'}")


def test_doctor_survives_an_operator_file_that_is_none(enrolled: Path) -> None:
    operator = enrolled / "operator.json"
    operator.write_text("no json")
    assert _findings("--dir", enrolled, "--operator", operator)[0] == 5
