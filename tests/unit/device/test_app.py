"""What a device loads: import-linter sees our own imports, this sees those of libraries too."""

import subprocess
import sys

HEAVY = ("keras", "tensorflow", "torch", "sklearn", "pandas", "litestar", "sqlalchemy", "matplotlib")


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_device_loads_nothing_heavy() -> None:
    assert _modules_after("import edgeloop.device.app").isdisjoint(HEAVY)


def test_device_loads_no_engine_before_it_is_used() -> None:
    assert _modules_after("import edgeloop.device.app").isdisjoint(("onnxruntime", "ai_edge_litert.interpreter"))
