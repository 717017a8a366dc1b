import subprocess
import sys
from importlib import metadata

from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.installed import PACKAGES, installed_engines


def test_installed_engines_come_with_their_versions() -> None:
    assert installed_engines() == {
        EngineName.LITERT: metadata.version("ai-edge-litert"),
        EngineName.ONNXRUNTIME: metadata.version("onnxruntime"),
        EngineName.OPENVINO: metadata.version("openvino"),
    }


def test_every_engine_names_its_package() -> None:
    assert set(PACKAGES) == set(EngineName)


def test_telling_what_is_installed_loads_nothing_of_it() -> None:
    code = "import sys; from edgeloop.runtime.engines.installed import installed_engines as f; f(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()).isdisjoint({"ai_edge_litert", "onnxruntime", "openvino", "numpy"})
