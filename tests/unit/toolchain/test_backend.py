"""What a worker's process imports, seen in one of its own."""

import subprocess
import sys

_WORKER = """
import sys
from edgeloop.toolchain.backend import import_keras, use_threads
use_threads(1)
keras = import_keras()
print(*sorted({"jax", "keras", "matplotlib", "pandas", "sklearn"} & set(sys.modules)))
import numpy as np
import pandas, sklearn.svm  # for those who ask for them themselves
net = keras.Sequential([keras.layers.Dense(2)])
print(net(np.ones((1, 3), np.float32)).shape, sklearn.svm.SVC.__name__)
"""


def test_worker_imports_keras_without_what_it_has_for_others_and_finds_these_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", _WORKER], capture_output=True, text=True, check=True, timeout=150)
    assert done.stdout.splitlines() == ["keras", "(1, 2) SVC"]
