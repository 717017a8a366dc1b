"""`edgeloop fleet simulate` as a process, small; and that devices that check ask for as much as those that do not."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from edgeloop.simulate.fleet import Fleet
from edgeloop.simulate.plan import Plan
from edgeloop.simulate.run import Place, at_operator, fleet_at, own_place, reconnect, roll_out

COMMAND = (sys.executable, "-m", "edgeloop", "fleet", "simulate", "--beat-s", "2", "--send-every-s", "1")
WITHIN_S = 60.0


def test_a_fleet_behind_a_node_and_bad_links_gets_the_bundle_and_hands_over_its_readings() -> None:
    options = ("--devices", "12", "--nodes", "1", "--link", "wifi", "--faults", "resets=5%,loss=1%", "--minutes", "0.4")
    done = subprocess.run([*COMMAND, *options, "--json"], capture_output=True, text=True, timeout=120, check=True)
    report = json.loads(done.stdout)
    assert report["enrolled"] == 12
    assert report["spreading"]["reached"] == 12
    assert report["spreading"]["to_all_s"] >= report["spreading"]["to_half_s"] > 0
    assert report["steady"]["readings_acknowledged_per_s"] > 1
    assert report["steady"]["sync_p99_ms"] > 0
    assert report["steady"]["server_peak_mb"] > 10


def test_ctrl_c_leaves_no_process(tmp_path: Path) -> None:
    running = subprocess.Popen([*COMMAND, "--devices", "4"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        children = _children(running.pid, at_least=2)
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
        gone, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
        assert len(gone) == len(children)
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()


def _children(pid: int, *, at_least: int) -> list[psutil.Process]:
    """What it has started, once that is the cloud that serves and a worker."""
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        found = psutil.Process(pid).children(recursive=True)
        if len(found) >= at_least and any("worker" in " ".join(_words(one)) for one in found):
            return found
        time.sleep(0.05)
    raise AssertionError("no cloud and worker within 30 s")


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--hub", "http://127.0.0.1:1"), "--join"),
        (("--bundle", "a@1.0.0"), "--operator"),
        (("--link", "pigeon"), "ethernet"),
        (("--faults", "fire=2%"), "resets"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: tuple[str, ...], why: str) -> None:
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert why in done.stderr


def test_devices_that_check_signatures_ask_for_as_much_as_those_that_do_not(tmp_path: Path) -> None:
    plan = Plan(devices=2, beat_s=1.0, readings_per_s=0.0, checked=1.0)
    unchecked = msgspec.structs.replace(plan, checked=0.0)
    with own_place(plan, tmp_path, size_bytes=5_000) as (place, _):
        assert place.operator is not None
        once_more = at_operator(unchecked, place.operator, bundle="simulated@1.0.0")
        asked = [_asked(plan, place, tmp_path), _asked(unchecked, once_more, tmp_path)]
    # What is signed, the manifest and its small files are one question, the model is the other.
    assert asked == [{"trust": plan.devices, "fetch": plan.devices}] * 2


def _asked(plan: Plan, place: Place, folder: Path) -> dict[str, int]:
    """How often what is signed and files were asked for until all devices had the bundle."""
    fleet: Fleet
    with fleet_at(place, plan, folder) as fleet:
        fleet.enrol()
        fleet.run()
        _, spread = roll_out(fleet, place, folder, within_s=WITHIN_S)
        assert spread.reached == plan.devices
        fleet.watch(1.5)
        return {verb: fleet.total.requests[verb] for verb in ("trust", "fetch")}


def test_devices_that_all_come_back_at_once_are_answered_and_cost_the_cloud_little(tmp_path: Path) -> None:
    plan = Plan(devices=150, beat_s=2.0, readings_per_s=0.0, checked=0.0)
    with own_place(plan, tmp_path, size_bytes=5_000) as (place, cloud), fleet_at(place, plan, tmp_path) as fleet:
        idle_bytes = cloud.watched().memory_bytes()
        fleet.enrol()
        fleet.run()
        fleet.watch(plan.beat_s)
        came = reconnect(fleet, cloud, idle_bytes=idle_bytes, within_s=30.0)
    assert (came.answered, came.last_s is not None) == (plan.devices, True)
    assert 0 < came.more_bytes <= 200 * 1024**2


def test_bundles_bytes_are_told_apart_from_what_is_signed(tmp_path: Path) -> None:
    plan = Plan(devices=3, beat_s=1.0, readings_per_s=0.0, checked=0.0)
    with own_place(plan, tmp_path, size_bytes=20_000) as (place, _), fleet_at(place, plan, tmp_path) as fleet:
        fleet.enrol()
        fleet.run()
        window, spread = roll_out(fleet, place, tmp_path, within_s=WITHIN_S)
    assert spread.reached == plan.devices
    tally = window.tally
    came_along_bytes = spread.size_bytes - tally.bundle_bytes / plan.devices
    assert 0 < came_along_bytes < 10_000
    assert tally.down_bytes > tally.bundle_bytes
