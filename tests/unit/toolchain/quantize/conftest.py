import pytest

from edgeloop.toolchain.convert.keras import export_keras
from edgeloop.toolchain.source.model import Format, Model
from quantizable import mixed_model


@pytest.fixture(scope="session")
def float_model() -> Model:
    return mixed_model()


@pytest.fixture(scope="session")
def float_litert(float_model: Model) -> bytes:
    return export_keras(float_model, Format.LITERT)
