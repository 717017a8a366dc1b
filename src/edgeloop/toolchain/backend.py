"""Keras on TensorFlow, imported late and quietly: it costs seconds, and only the toolchain pays them."""

import os
import warnings
from typing import Any

from edgeloop.contracts.errors import Unavailable
from edgeloop.runtime.engines.quiet import without_native_chatter


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


def use_threads(count: int) -> None:
    """Let TensorFlow compute with so many threads from now on, in a process that has not used it yet.

    Raises Unavailable if TensorFlow is at work in this process already.
    """
    import_keras()
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)
    except RuntimeError as error:
        raise Unavailable(f"TensorFlow's threads cannot be set to {count} any more here: {error}") from error
