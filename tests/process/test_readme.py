"""The README is true: its commands, copied one by one into a shell in an empty folder, work."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"
SERVER_START_S = 5
TIMEOUT_S = 300


@pytest.mark.timeout(TIMEOUT_S + 10)
def test_commands_of_the_readme_work_one_after_another(tmp_path: Path) -> None:
    script = _script(README.read_text())
    assert "edgeloop train digits" in script
    assert "edgeloop rollout start" in script
    done = _run_in_own_session(script, tmp_path)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert "camera-1" in done.stdout
    assert "completed" in done.stdout
    assert done.stdout.count("\n0\n") == 1, "the Python line prints the label of a nought"


def _script(readme: str) -> str:
    """The sh blocks after the first screen's make commands, as one script that stops at the first failure."""
    blocks = re.findall(r"```sh\n(.*?)```", readme, flags=re.DOTALL)[1:]
    lines = ["set -euo pipefail"]
    for line in "\n".join(blocks).splitlines():
        if line.startswith("source .venv"):
            # The virtual environment is the one that runs this test; the folder is an empty one.
            continue
        lines.append(line)
        if line.endswith(" &"):
            lines.append(f"sleep {SERVER_START_S}")
    return "\n".join(lines)


def _run_in_own_session(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run it, and end every process that it started, by its session."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "120"}
    # Files and not pipes: servers that outlive the script would hold a pipe open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            code = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(script, code, out.read().decode(), err.read().decode())
