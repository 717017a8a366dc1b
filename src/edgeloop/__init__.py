"""edgeloop: from a trained model to a fleet that improves itself.

>>> import edgeloop
>>> edgeloop.__version__
'0.1.0'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeloop.contracts.errors import EdgeloopError
    from edgeloop.contracts.prediction import Prediction
    from edgeloop.runtime.load import load
    from edgeloop.runtime.predictor import Predictor

__version__ = "0.1.0"

__all__ = ["EdgeloopError", "Prediction", "Predictor", "__version__", "load"]

_HOME = {
    "EdgeloopError": "edgeloop.contracts.errors",
    "Prediction": "edgeloop.contracts.prediction",
    "Predictor": "edgeloop.runtime.predictor",
    "load": "edgeloop.runtime.load",
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first asked for, so that `import edgeloop` costs nothing."""
    if name not in _HOME:
        raise AttributeError(f"module 'edgeloop' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
