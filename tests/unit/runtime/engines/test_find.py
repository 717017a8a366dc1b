from importlib import metadata

import pytest

from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.find import installed_engines, probe_engine


@pytest.mark.parametrize("name", list(EngineName))
def test_probe_finds_a_working_engine_sound(name: EngineName) -> None:
    assert probe_engine(name) is None


def test_installed_engines_come_with_their_versions() -> None:
    assert installed_engines() == {
        EngineName.LITERT: metadata.version("ai-edge-litert"),
        EngineName.ONNXRUNTIME: metadata.version("onnxruntime"),
        EngineName.OPENVINO: metadata.version("openvino"),
    }
