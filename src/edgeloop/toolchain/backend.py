"""Keras on TensorFlow, imported late and quietly: it costs seconds, and only the toolchain pays them."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, cast

from edgeloop import ownership
from edgeloop.contracts.errors import Unavailable
from edgeloop.runtime.engines.quiet import without_native_chatter

_EXTRAS = ("jax", "matplotlib", "pandas", "sklearn")
"""What Keras and TensorFlow import if it is there, half of the time that they take, for what we never ask of them:
models from JAX, pictures, data frames, estimators."""


def import_keras() -> Any:
    """The keras module; in a process of our own without what it has for others, such as data frames. Raises
    Unavailable if it is not installed, or runs on another backend.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    extras = _EXTRAS if ownership.is_ours() else ()
    try:
        with warnings.catch_warnings(), without_native_chatter(), _not_to_be_found(extras):
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
    """Let TensorFlow compute with so many threads from now on, in a process of ours that has not used it yet: a
    worker's. Raises Unavailable if TensorFlow is at work in this process already.
    """
    ownership.take_over()
    import_keras()
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)
    except RuntimeError as error:
        raise Unavailable(f"TensorFlow's threads cannot be set to {count} any more here: {error}") from error


@contextmanager
def _not_to_be_found(names: tuple[str, ...]) -> Iterator[None]:
    """Meanwhile importing these fails, but for those that are imported already."""
    hidden = [name for name in names if name not in sys.modules]
    try:
        sys.modules.update({name: cast("ModuleType", None) for name in hidden})  # the import system's word for it
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
