"""What a worker's process imports, seen in one of its own."""

import subprocess
import sys

import pytest

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


_BEGIN = """
import sys
from edgeloop.toolchain.backend import import_keras
"""
_END = """
print(*sorted({"matplotlib", "pandas", "sklearn"} & set(sys.modules)))
"""
_COMMAND = """
from edgeloop.cli.ending import run_to_end
run_to_end(import_keras)
"""


@pytest.mark.parametrize(
    ("how", "loaded"), [("import_keras()", "matplotlib pandas sklearn"), (_COMMAND, "")], ids=["somebody's", "ours"]
)
def test_keras_is_whole_in_a_process_that_is_not_ours(how: str, loaded: str) -> None:
    script = f"{_BEGIN}\n{how}\n{_END}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=150)
    assert done.stdout.splitlines() == [loaded]


def test_worker_imports_keras_without_what_it_has_for_others_and_finds_these_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", _WORKER], capture_output=True, text=True, check=True, timeout=150)
    assert done.stdout.splitlines() == ["keras", "(1, 2) SVC"]
