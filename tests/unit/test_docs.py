import ast
import enum
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import typer

from edgeloop.cli.app import app
from edgeloop.contracts import messages
from edgeloop.contracts.manifest import Modality
from edgeloop.contracts.output import Task
from edgeloop.contracts.prediction import Box, Prediction, Scored
from edgeloop.contracts.preprocess import Step
from edgeloop.serve import metrics
from edgeloop.toolchain.described.description import Description

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "edgeloop"
DOCS = ROOT / "docs"
ADRS = sorted((DOCS / "adr").glob("*.md"))
PAGES = [page for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))) if page.is_file()]

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def _text(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def _sections(text: str, heading: str) -> dict[str, str]:
    """What stands under each heading that is one word or phrase in backquotes, up to the next heading of any level."""
    parts = re.split(rf"^{heading} `([^`]+)`$", text, flags=re.MULTILINE)
    bodies = [re.split(r"^#", body, maxsplit=1, flags=re.MULTILINE)[0] for body in parts[2::2]]
    assert len(set(parts[1::2])) == len(bodies), f"a heading {heading} stands twice"
    return dict(zip(parts[1::2], bodies, strict=True))


def _rows(section: str) -> list[list[str]]:
    """The cells of table rows whose first cell is one name in backquotes."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:3] == "| `"]


# ---- the file map


def _holds_code(path: Path) -> bool:
    """False for an __init__.py that is a docstring and nothing else."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return path.name != "__init__.py" or not all(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body
    )


def test_file_map_lists_exactly_the_modules_there_are() -> None:
    there = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if _holds_code(path))
    assert sorted(re.findall(r"^- `([^`]+\.py)`  \S", _text("files.md"), re.MULTILINE)) == there


def test_file_map_lists_exactly_the_packages_there_are() -> None:
    there = sorted(f"{path.parent.relative_to(SOURCE).as_posix()}/" for path in SOURCE.rglob("__init__.py"))
    listed = re.findall(r"^##+ `([^`]+/)`: \S", _text("files.md"), re.MULTILINE)
    assert sorted(name.replace("edgeloop/", "./") for name in listed) == there


def test_file_map_puts_each_module_under_its_package() -> None:
    headings = re.split(r"^##+ `([^`]+)/`.*$", _text("files.md"), flags=re.MULTILINE)
    for package, body in zip(headings[1::2], headings[2::2], strict=True):
        folders = {str(Path(name).parent) for name in re.findall(r"^- `([^`]+)`", body, re.MULTILINE)}
        assert folders <= {"." if package == "edgeloop" else package}


# ---- the command line


def _commands(command: Any, name: str = "edgeloop") -> Iterator[tuple[str, Any]]:
    """Every command that can be run, by its full name; groups only when they have options of their own."""
    subcommands = getattr(command, "commands", {})
    if not subcommands or command.params:
        yield name, command
    for verb, one in subcommands.items():
        yield from _commands(one, f"{name} {verb}")


COMMANDS = dict(_commands(typer.main.get_command(app)))


def _parameter(parameter: Any) -> str:
    return parameter.name.upper() if parameter.param_type_name == "argument" else ", ".join(parameter.opts)


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if getattr(parameter, "is_flag", False):
        return "on" if value else "off"
    if value is None or value == "":
        return "none"
    return f"`{value.value if isinstance(value, enum.Enum) else value}`"


def test_cli_reference_names_exactly_the_commands_there_are() -> None:
    assert set(_sections(_text("cli.md"), "###")) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_cli_reference_shows_exactly_the_options_of(name: str) -> None:
    shown = {row[0].strip("`"): row[1] for row in _rows(_sections(_text("cli.md"), "###")[name])}
    assert shown == {_parameter(one): _default(one) for one in COMMANDS[name].params}


# ---- the runtime and serving


def _below(text: str, heading: str) -> str:
    """What stands under `## heading`, up to the next heading of that level."""
    return re.split(r"^## ", text.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def _names(section: str) -> set[str]:
    return {row[0].strip("`") for row in _rows(section)}


def test_runtime_page_names_exactly_the_keys_of_a_description() -> None:
    named = _names(_below(_text("runtime.md"), "Bring a model").split("\n### ")[0])
    cells = re.findall(r"^\| (`.+?) \|", _below(_text("runtime.md"), "Bring a model").split("\n### ")[0], re.MULTILINE)
    assert named
    keys = {re.sub(r"\W.*", "", key.strip("`[]")) for cell in cells for key in cell.split(", ")}
    assert keys == set(Description.__struct_fields__)


def test_runtime_page_shows_exactly_the_modalities_and_steps_there_are() -> None:
    steps = {str(kind.__struct_config__.tag) for kind in get_args(Step)}
    assert _names(_below(_text("runtime.md"), "Inputs")) == steps | set(Modality)


def test_runtime_page_shows_exactly_the_tasks_there_are() -> None:
    assert _names(_below(_text("runtime.md"), "Outputs")) == set(Task)


def test_runtime_page_shows_every_example() -> None:
    shown = set(re.findall(r"docs/examples/(\S+\.toml)", _text("runtime.md")))
    assert shown == {path.name for path in (DOCS / "examples").glob("*.toml")}


def test_serving_page_names_exactly_the_metrics_there_are() -> None:
    names = re.compile(r"edgeloop_[a-z_]+")
    assert set(names.findall(_text("serving.md"))) == set(names.findall(metrics.__doc__ or ""))


# ---- links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_point_to_files_that_are_there(page: Path) -> None:
    targets = _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    relative = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert [target for target in relative if not (page.parent / target).exists()] == []


# ---- decisions


def test_adrs_are_numbered_without_gaps() -> None:
    assert [path.name[:5] for path in ADRS] == [f"{number:04d}-" for number in range(1, len(ADRS) + 1)]


@pytest.mark.parametrize("path", ADRS, ids=lambda path: path.stem)
def test_adr_bears_its_number_its_date_and_the_three_headings(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.match(rf"# {path.name[:4]} \S.*\n\nDate: \d{{4}}-\d\d-\d\d\n", text)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]


# ---- the wire

VERBS = ("Enrol", "Sync", "Trust", "Send", "Infer")
MESSAGES = [
    kind
    for kind in vars(messages).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == messages.__name__
]
ANSWERS = (Prediction, Box, Scored)


def test_each_verb_has_a_request_and_a_reply() -> None:
    names = {kind.__name__ for kind in MESSAGES}
    assert {f"{verb}{role}" for verb in VERBS for role in ("Request", "Reply")} <= names


def test_wire_page_describes_exactly_the_messages_there_are() -> None:
    assert set(_sections(_text("wire.md"), "####")) == {kind.__name__ for kind in (*MESSAGES, *ANSWERS)}


@pytest.mark.parametrize("kind", [*MESSAGES, *ANSWERS], ids=lambda kind: kind.__name__)
def test_wire_page_names_each_field_of(kind: type[msgspec.Struct]) -> None:
    section = _sections(_text("wire.md"), "####")[kind.__name__]
    table = section.split("\n\n")[1]
    assert [row[0].strip("`") for row in _rows(table)] == list(kind.__struct_encode_fields__)


def test_wire_page_states_the_bounds_that_the_code_keeps() -> None:
    limits = _text("wire.md").split("## Limits")[1]
    assert f"{messages.MAX_BODY_BYTES // 1024**2} MiB" in limits
    assert f"{messages.MAX_BATCH_EVENTS:,}" in limits
    assert f"{messages.MAX_WAIT_S:.0f} s" in limits
    assert f"{messages.MAX_TRUST_BYTES // 1024**2} MiB of metadata" in limits
    assert f"{messages.MAX_ALONG_BYTES // 1024} KiB along" in limits


def test_readme_shows_what_a_run_of_the_demo_printed() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = readme.partition("<!-- demo -->")[2].partition("<!-- /demo -->")[0]
    for word in ("versions", "devices", "rollouts", "what the loop showed", "digits@3.0.0"):
        assert word in shown
