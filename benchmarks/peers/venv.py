"""Peers whose pins do not go with ours: each in a virtual environment of its own under build/bench-peers.

Made only when asked (`--install-peers`); without it such a peer's rows say that it is not installed. The peer's script
in `apart` gets a folder with the float ONNX model and the data, and leaves the made model there.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.contender import Contender
from benchmarks.data import Absent
from edgeloop.toolchain.source.model import Format

FOLDER = Path("build/bench-peers")

REQUIREMENTS = {
    "olive": ("olive-ai==0.13.0", "torch==2.13.0", "onnxruntime==1.31.1", "requests==2.34.2"),
    # The last release that quantizes ONNX; from 3.0 on it is for PyTorch and TensorFlow alone.
    "neural_compressor": (
        "neural-compressor==2.6",
        "onnx==1.16.2",
        "onnxruntime==1.19.2",
        "numpy==1.26.4",
        "six==1.17.0",
    ),
}
"""What each needs beyond what it declares or with the versions that it was written for."""

SERVERS = {
    "litserve": ("litserve==0.2.19", "ai-edge-litert==2.3.0", "numpy==2.4.6"),
    # uvicorn takes the faster loop and parser where they are installed; LitServe brings them, BentoML does not.
    "bentoml": (
        "bentoml==1.4.39",
        "uvloop==0.23.0",
        "httptools==0.9.0",
        "ai-edge-litert==2.3.0",
        "numpy==2.4.6",
    ),
    # Its workers ask for the thread's event loop, which uvloop no longer makes by itself from 0.22 on.
    "mlserver": ("mlserver==1.7.1", "uvloop==0.21.0", "httptools==0.9.0", "ai-edge-litert==2.3.0", "numpy==2.4.6"),
}
"""The peers of `edgeloop serve`, with the engine and the arrays that we use ourselves."""

TITLES = {
    "olive": "Olive int8",
    "neural_compressor": "Neural Compressor int8",
    "litserve": "LitServe",
    "bentoml": "BentoML",
    "mlserver": "MLServer",
}
"""As the table calls them."""

_RUN_TIMEOUT_S = 1200
_SILENT = {
    "OLIVE_DISABLE_TELEMETRY": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def install(peer: str) -> None:
    """Make the peer's environment, unless it is there; from the package index that pip is set up for."""
    if is_installed(peer):
        return
    pip = [str(_python(peer)), "-m", "pip", "install", "--quiet"]
    for command in ([sys.executable, "-m", "venv", str(FOLDER / peer)], [*pip, *_requirements(peer)]):
        subprocess.run(command, check=True)  # noqa: S603 - the commands above, and no others
    _stamp(peer).write_text(_wanted(peer), encoding="utf-8")


def is_installed(peer: str) -> bool:
    """Whether its environment is there, whole and with what is asked for now."""
    return _stamp(peer).is_file() and _stamp(peer).read_text(encoding="utf-8") == _wanted(peer)


def require(peer: str) -> Path:
    """The folder of its commands, as an absolute path. Raises Absent if it is not installed."""
    if not is_installed(peer):
        raise Absent("not installed; --install-peers makes its environment")
    return _python(peer).parent.absolute()


def quantized_apart(
    peer: str,
    model: bytes,
    calibration: NDArray[np.float32],
    tuning: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> Contender:
    """The float ONNX model as the peer makes it.

    tuning: samples and labels that it may measure its own choices on. Raises Absent if it is not installed,
    RuntimeError with its last words if it fails.
    """
    commands = require(peer)
    script = Path(__file__).with_name("apart") / f"{peer}_worker.py"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model)
        np.savez(folder / "data.npz", calibration=calibration, inputs=tuning[0], labels=tuning[1])
        done = subprocess.run(  # noqa: S603 - our own script on our own files
            # -P: the script's neighbours must not be taken for the packages of the same names.
            [str(commands / "python"), "-P", str(script), str(folder)],
            cwd=folder,
            capture_output=True,
            timeout=_RUN_TIMEOUT_S,
            check=False,
            env={**os.environ, **_SILENT},
        )
        made = folder / "made.onnx"
        if done.returncode != 0 or not made.is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
            raise RuntimeError(f"{TITLES[peer]} ended with {done.returncode}: {said[-1][:300]}")
        return Contender(TITLES[peer], Format.ONNX, made.read_bytes())


def _stamp(peer: str) -> Path:
    return FOLDER / peer / "installed.txt"


def _wanted(peer: str) -> str:
    return "\n".join(_requirements(peer))


def _requirements(peer: str) -> tuple[str, ...]:
    return {**REQUIREMENTS, **SERVERS}[peer]


def _python(peer: str) -> Path:
    return FOLDER / peer / "bin" / "python"
