"""Keras on TensorFlow, imported late and quietly: it costs seconds, and only the toolchain pays them."""

import os
import warnings
from typing import Any

from edgeloop.contracts.errors import Unavailable
from edgeloop.runtime.quiet import without_native_chatter


def import_keras() -> Any:
    """The keras module. Raises Unavailable if it is not installed, or runs on another backend."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    try:
        with warnings.catch_warnings(), without_native_chatter():
            warnings.simplefilter("ignore")
            import keras
            import tensorflow as tf
    except ImportError as error:
        raise Unavailable(
            f"training needs Keras ({error}); install it with: pip install 'edgeloop[toolchain]'"
        ) from error
    if keras.backend.backend() != "tensorflow":
        raise Unavailable(f"Keras runs on {keras.backend.backend()} here; set KERAS_BACKEND=tensorflow")
    tf.get_logger().setLevel("ERROR")
    return keras


def seed_everything(keras: Any, seed: int) -> None:
    """Make what follows repeatable: seeds, and deterministic kernels."""
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
