import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.installed import PACKAGES, installed_engines


def _fresh(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


def test_installed_engines_come_with_their_versions() -> None:
    assert installed_engines() == {
        EngineName.LITERT: metadata.version("ai-edge-litert"),
        EngineName.ONNXRUNTIME: metadata.version("onnxruntime"),
        EngineName.OPENVINO: metadata.version("openvino"),
    }


def test_every_engine_names_its_package() -> None:
    assert set(PACKAGES) == set(EngineName)


def _install(site: Path, *, record: str | None) -> None:
    """An onnxruntime that comes first on the path; record: the folder or file in which it says its version."""
    (site / "onnxruntime").mkdir(parents=True)
    (site / "onnxruntime" / "__init__.py").write_text("raise RuntimeError('it was loaded')")
    if record is not None:
        (site / record).mkdir()
        (site / record / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 9.8.7\n")


@pytest.mark.parametrize("record", ["onnxruntime-9.8.7.dist-info", "onnxruntime.dist-info"])
def test_version_is_found_wherever_the_installer_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str
) -> None:
    _install(tmp_path, record=record)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    assert installed_engines()[EngineName.ONNXRUNTIME] == "9.8.7"


def test_engine_whose_module_is_not_there_is_not_installed() -> None:
    code = (
        "import sys; from edgeloop.runtime.engines.installed import installed_engines\n"
        "sys.path.clear(); print(installed_engines())"
    )
    assert _fresh(code) == ["{}"]


def test_telling_what_is_installed_loads_nothing_of_it() -> None:
    code = "import sys; from edgeloop.runtime.engines.installed import installed_engines as f; f(); print(*sys.modules)"
    heavy = {"ai_edge_litert", "onnxruntime", "openvino", "numpy", "importlib.metadata"}
    assert set(_fresh(code)).isdisjoint(heavy)
