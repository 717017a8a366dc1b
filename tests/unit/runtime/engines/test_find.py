import pytest

from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.find import probe_engine


@pytest.mark.parametrize("name", list(EngineName))
def test_probe_finds_a_working_engine_sound(name: EngineName) -> None:
    assert probe_engine(name) is None
