import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgeloop


def _exported() -> set[str]:
    """What the module's own text offers to type checkers: its imports, and its version."""
    tree = ast.parse(Path(edgeloop.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        name.asname or name.name for node in block.body if isinstance(node, ast.ImportFrom) for name in node.names
    }
    return imported | {"__version__"}


def _fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_all_names_what_is_exported() -> None:
    assert set(edgeloop.__all__) == _exported()


def test_all_is_sorted_and_without_doubles() -> None:
    assert edgeloop.__all__ == sorted(set(edgeloop.__all__))


@pytest.mark.parametrize("name", edgeloop.__all__)
def test_exported_name_can_be_imported_first_in_a_fresh_process(name: str) -> None:
    assert _fresh(f"from edgeloop import {name} as it; print(it is not None)").strip() == "True"


@pytest.mark.parametrize("name", [name for name in edgeloop.__all__ if name != "__version__"])
def test_exported_name_is_the_thing_itself(name: str) -> None:
    found = getattr(edgeloop, name)
    assert (found.__name__, found.__module__.startswith("edgeloop.")) == (name, True)


def test_star_import_gives_what_is_exported() -> None:
    code = "from edgeloop import *; print(*[n for n in dir() if not n.startswith('__') or n == '__version__'])"
    assert set(_fresh(code).split()) == set(edgeloop.__all__)


def test_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Predict'; it has .*Predictor"):
        edgeloop.Predict  # noqa: B018 - looking it up is what is tested


def test_importing_edgeloop_imports_nothing_that_costs() -> None:
    loaded = set(_fresh("import sys, edgeloop; print(*sys.modules)").split())
    assert loaded.isdisjoint({"numpy", "httpx", "msgspec", "cv2", "tuf"})
