"""Ctrl-C in the middle of the demo ends it cleanly, leaving no process and no folder behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

START_TIMEOUT_S = 60
END_TIMEOUT_S = 20


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_demo_and_all_its_processes(tmp_path: Path, how: signal.Signals) -> None:
    log = tmp_path / "demo.log"
    with log.open("wb") as output:
        demo = subprocess.Popen(
            [sys.executable, "-m", "edgeloop", "demo"],
            env=os.environ | {"TMPDIR": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        children = _wait_for_fleet(demo, log)
        demo.send_signal(how)
        assert demo.wait(END_TIMEOUT_S) == 130, log.read_text()
        assert [child for child in children if _lives(child)] == []
        assert list(tmp_path.glob("edgeloop-demo-*")) == []
    finally:
        demo.kill()
        demo.wait()


def _lives(process: psutil.Process) -> bool:
    """True while it runs; a zombie is dead, whenever the system's first process comes to bury it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_for_fleet(demo: "subprocess.Popen[bytes]", log: Path) -> list[psutil.Process]:
    """The demo's processes once cloud, worker, node and two devices are up."""
    until_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until_s:
        children = psutil.Process(demo.pid).children(recursive=True)
        if len(children) >= 5:
            return children
        assert demo.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(f"the fleet did not come up: {log.read_text()}")
