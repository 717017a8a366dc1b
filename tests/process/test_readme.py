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
TIMEOUT_S = 600
"""For all of it: a slow machine takes minutes."""
_SAID = "EDGELOOP_README_SAID"
_UNTIL_READY = f"""\
until [ "$(grep -c ' is ready: ' "${_SAID}")" -ge {{servers}} ]; do kill -0 $!; sleep 0.2; done"""
"""What the README asks of a person: wait until it says so. A server that has ended ends the script."""


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
    lines, servers = ["set -euo pipefail"], 0
    for line in "\n".join(blocks).splitlines():
        if line.startswith("source .venv"):
            # The virtual environment is the one that runs this test; the folder is an empty one.
            continue
        lines.append(line)
        if line.endswith(" &"):
            servers += 1
            lines.append(_UNTIL_READY.format(servers=servers))
    return "\n".join(lines)


def _run_in_own_session(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run it, and end every process that it started, by its session."""
    # Files and not pipes: servers that outlive the script would hold a pipe open.
    with tempfile.NamedTemporaryFile() as out, tempfile.TemporaryFile() as err:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "120",
            _SAID: out.name,
        }
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
            process.wait()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(script, code, out.read().decode(), err.read().decode())
