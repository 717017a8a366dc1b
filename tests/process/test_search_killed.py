"""A real search in real processes: killed with SIGKILL in mid-trial, taken up again, and the same in the end; and the
same once more on a real Ray cluster of two nodes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgeloop.bundle.archive import open_bundle
from processes import free_port

TRIALS = 3
LARGEST_KB = 6
# Ray takes 127.0.0.1 for "the address of this machine's network"; these stay on loopback.
HEAD, SECOND = "127.0.0.2", "127.0.0.3"
pytestmark = pytest.mark.timeout(800)


def _compress(model: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "edgeloop", "compress", str(model), "--data", str(_points_of(model))),
        *("--max-drop", "90", "--max-size", f"{LARGEST_KB}KB", "--trials", str(TRIALS), "--out", str(out)),
        *("--images-seen", "1000", "--seed", "1"),
        *("--precisions", "int8", "--json", *more),
    ]


def _finished(model: Path, out: Path, *more: str) -> dict[str, Any]:
    done = subprocess.run(_compress(model, out, *more), capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _decided(out: Path) -> list[dict[str, Any]]:
    """What the seed decides of each trial: all but how long it took."""
    trials = [json.loads(path.read_bytes())["outcome"] for path in sorted((out / "trials").glob("*.json"))]
    return [{name: value for name, value in one.items() if name not in ("seconds", "body")} for one in trials]


def _points_of(model: Path) -> Path:
    return model.with_name("points.npz")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It tells six clouds of points apart, and is too large for the search's bound as it is."""
    path = tmp_path_factory.mktemp("source") / "model.keras"
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 1500)
    points = (2 * rng.normal(size=(6, 12))[labels] + rng.normal(size=(1500, 12))).astype(np.float32)
    np.savez(_points_of(path), inputs=points, labels=labels)
    net = ("--net", "dense", "--images-seen", "4000", "--out", str(path))
    command = [sys.executable, "-m", "edgeloop", "train", str(_points_of(path)), *net]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    return path


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A search that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    return out, _finished(model, out, "--workers", "2")


def test_a_search_ends_with_bundles_that_keep_to_the_bounds(whole: tuple[Path, dict[str, Any]]) -> None:
    out, report = whole
    packed = [one for one in report["candidates"] if one["bundle"]]
    assert packed
    for one in packed:
        manifest = open_bundle(one["bundle"]).manifest
        assert manifest.variants[0].size_bytes == one["size_bytes"] <= LARGEST_KB * 1024
        assert one["lost_points"] <= 90
    missing = [one for one in report["candidates"] if not one["bundle"]]
    assert missing
    assert all(one["misses"] for one in missing)
    page = (out / "front.html").read_text(encoding="utf-8")
    assert "http://" not in page.split("<script", 1)[0]
    assert all(f"trial {one['number']}:" in page for one in report["candidates"])


def test_compare_shows_a_finished_search_again(whole: tuple[Path, dict[str, Any]]) -> None:
    out, report = whole
    (out / "front.html").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "edgeloop", "compare", str(out), "--json"], capture_output=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == report
    assert (out / "front.html").is_file()


def _begun(search: "subprocess.Popen[bytes]", out: Path) -> list[psutil.Process]:
    """The search's workers, once one trial is done and another at work."""
    deadline = time.monotonic() + 200
    while not list((out / "trials").glob("*.json")) and time.monotonic() < deadline:
        assert search.poll() is None, "the search ended before it could be ended"
        time.sleep(0.02)
    return psutil.Process(search.pid).children(recursive=True)


def test_ctrl_c_says_how_to_go_on_and_leaves_no_worker_behind(model: Path, tmp_path: Path) -> None:
    search = subprocess.Popen(
        _compress(model, tmp_path, "--workers", "1"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        workers = _begun(search, tmp_path)
        search.send_signal(signal.SIGINT)
        _, said = search.communicate(timeout=60)
    finally:
        search.kill()
        search.wait()
    assert search.returncode == 130
    assert "the same command goes on from what lies in" in " ".join(said.decode().split())
    assert workers
    assert psutil.wait_procs(workers, timeout=30)[1] == []


def test_a_killed_search_goes_on_and_leaves_no_worker_behind(
    model: Path, whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    search = subprocess.Popen(
        _compress(model, tmp_path, "--workers", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        workers = _begun(search, tmp_path)
        os.kill(search.pid, signal.SIGKILL)
    finally:
        search.kill()
        search.wait()
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
    done_before = len(list((tmp_path / "trials").glob("*.json")))
    assert 1 <= done_before < TRIALS
    _finished(model, tmp_path, "--workers", "1")
    assert _decided(tmp_path) == _decided(whole[0])


@dataclass(frozen=True)
class Cluster:
    """address: for Ray's client. nodes: the head's process, and that of a second node."""

    address: str
    nodes: "list[subprocess.Popen[bytes]]"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A Ray head and a second node, each started as a person starts them."""
    ray = Path(sys.executable).with_name("ray")
    if not ray.is_file():
        pytest.skip("edgeloop[ray] is not installed")
    port, client_port = free_port(), free_port()
    # A socket's path may have 107 characters; pytest's folders are too deep.
    place = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    environment = os.environ | {
        "RAY_USAGE_STATS_ENABLED": "0",
        # The head forks a process for its client; gRPC's handlers let some of these forks fail.
        "GRPC_ENABLE_FORK_SUPPORT": "0",
        # It gives that process 30 s by default, too few for a busy machine.
        "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "150",
    }
    head = [
        *(ray, "start", "--head", f"--port={port}", f"--ray-client-server-port={client_port}", "--num-cpus=1"),
        *("--include-dashboard=false", f"--temp-dir={place}", f"--node-ip-address={HEAD}", "--block"),
    ]
    second = [
        *(ray, "start", f"--address={HEAD}:{port}", "--num-cpus=1", f"--node-ip-address={SECOND}", "--block"),
    ]
    started = []
    try:
        for command in (head, second):
            log = (tmp_path / f"ray-{len(started)}.log").open("wb")
            with log:
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            _wait_for_node(started[-1], tmp_path / f"ray-{len(started) - 1}.log")
        yield Cluster(f"ray://{HEAD}:{client_port}", started)
    finally:
        _end_all(started)
        shutil.rmtree(place, ignore_errors=True)


def _wait_for_node(node: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while b"Ray runtime started" not in log.read_bytes():
        assert node.poll() is None, log.read_text()[-2000:]
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.1)


def _end_all(nodes: "list[subprocess.Popen[bytes]]") -> None:
    """A node ends its own processes at SIGTERM; what is left of them then is killed."""
    processes = [child for node in nodes for child in psutil.Process(node.pid).children(recursive=True)]
    for node in reversed(nodes):
        node.terminate()
    for node in nodes:
        node.wait(30)
    _, alive = psutil.wait_procs(processes, timeout=10)
    for process in alive:
        process.kill()


def test_a_ray_cluster_gives_the_same_trials_with_both_nodes_at_work(
    model: Path, whole: tuple[Path, dict[str, Any]], cluster: Cluster, tmp_path: Path
) -> None:
    search = subprocess.Popen(
        _compress(model, tmp_path / "out", "--on", cluster.address), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        at_work: set[int] = set()
        deadline = time.monotonic() + 300
        while search.poll() is None and time.monotonic() < deadline:
            at_work |= {node.pid for node in cluster.nodes if node.pid not in at_work and _has_actor(node)}
            time.sleep(0.2)
        _, said = search.communicate(timeout=10)
    finally:
        search.kill()
        search.wait()
    assert search.returncode == 0, said.decode()[-2000:]
    assert at_work == {node.pid for node in cluster.nodes}
    assert _decided(tmp_path / "out") == _decided(whole[0])


def _has_actor(node: "subprocess.Popen[bytes]") -> bool:
    """Whether an actor of ours is on a method of its own, below this node."""
    for child in psutil.Process(node.pid).children(recursive=True):
        try:
            if "_Actor.try_task" in " ".join(child.cmdline()):
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def test_a_bundle_of_the_search_is_made_again_byte_for_byte(whole: tuple[Path, dict[str, Any]]) -> None:
    taught = [one for one in whole[1]["candidates"] if one["bundle"] and one["plan"]["body"]["kind"] == "student"]
    command = [sys.executable, "-m", "edgeloop", "repeat", taught[0]["bundle"], "--json"]
    done = subprocess.run(command, capture_output=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    (variant,) = json.loads(done.stdout)["variants"]
    assert (variant["same_bytes"], variant["size_bytes"]) == (True, taught[0]["size_bytes"])
