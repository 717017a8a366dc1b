"""The command line as a program: what it loads for a command, and what it says when one fails."""

import subprocess
import sys
import typing
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from builders import make_bundle
from edgeloop.cli.app import app
from edgeloop.cli.lazy import LazyGroup


def _loaded_by(*arguments: str) -> set[str]:
    code = (
        "import sys\n"
        "from edgeloop.cli.app import main\n"
        f"sys.argv = ['edgeloop', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [("--version",), ("device", "run", "--help"), ("predict", "--help")])
def test_a_command_that_needs_no_model_loads_none_of_what_models_need(arguments: tuple[str, ...]) -> None:
    heavy = {"numpy", "cv2", "httpx", "edgeloop.toolchain", "edgeloop.cloud", "edgeloop.cli.convert"}
    assert _loaded_by(*arguments).isdisjoint(heavy)


def test_help_of_every_command_loads_nothing_that_computes() -> None:
    code = (
        "import contextlib, io, sys, typer\n"
        "from edgeloop.cli.app import app\n"
        "HEAVY = {'numpy', 'cv2', 'tensorflow', 'keras', 'torch', 'onnx', 'onnxruntime', 'ai_edge_litert',\n"
        "    'openvino', 'scipy', 'sklearn', 'pandas', 'litestar', 'sqlalchemy', 'soxr'}\n"
        "def ask(command, words):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):\n"
        "        command.main([*words, '--help'], prog_name='edgeloop')\n"
        "    print(*words, '|', 'Usage' in said.getvalue(), '|', *sorted(HEAVY & set(sys.modules)))\n"
        "def walk(command, words):\n"
        "    ask(root, words)\n"
        "    for name in list(getattr(command, 'commands', ())):\n"
        "        walk(command.commands[name], [*words, name])\n"
        "root = typer.main.get_command(app)\n"
        "walk(root, [])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    told = [[part.strip() for part in line.split("|")] for line in done.stdout.splitlines()]
    assert {"", "train", "inspect", "device run", "rollout start"} <= {words for words, _, _ in told}
    assert [one for one in told if one[1:] != ["True", ""]] == []


def test_inspecting_a_bundle_loads_nothing_that_computes(tmp_path: Path) -> None:
    assert _loaded_by("inspect", str(make_bundle(tmp_path))).isdisjoint({"numpy", "cv2"})


def test_logs_do_not_bring_rich() -> None:
    code = (
        "import sys; from edgeloop.cli.logs import set_up_logging; set_up_logging()\n"
        "print('structlog' in sys.modules, 'rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", "False"]


def test_logs_are_logfmt_with_plain_tracebacks_and_rich_still_works() -> None:
    code = (
        "from edgeloop.cli.logs import set_up_logging; set_up_logging()\n"
        "import structlog, rich.console\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n"
        "    structlog.get_logger().error('broke', source='a.png', exc_info=error)\n"
        "rich.console.Console().print('[bold]drawn[/]')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "level=error event=broke source=a.png" in done.stderr
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert done.stdout == "drawn\n"


def test_each_command_is_made_once() -> None:
    group = typing.cast(LazyGroup, typer.main.get_command(app))
    assert group.commands["device"] is group.commands["device"]


def test_each_command_bears_the_name_that_the_table_gives_it() -> None:
    group = typing.cast(LazyGroup, typer.main.get_command(app))
    assert {name: command.name for name, command in group.commands.items()} == {name: name for name in group.places}


def test_a_misspelt_command_is_told_of_the_right_one() -> None:
    result = CliRunner().invoke(app, ["devise"])
    assert result.exit_code == 2
    assert "Did you mean 'device'?" in result.output
