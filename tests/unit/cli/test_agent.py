"""The process that `edgeloop device run` becomes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgeloop.bundle.durable import write_durable
from edgeloop.cli.agent import Order, from_text, to_text
from edgeloop.contracts.codec import to_pretty_json
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.states import Kind
from edgeloop.device.config import DeviceConfig, SelectConfig
from edgeloop.transport.identity import load_or_make_key
from edgeloop.transport.membership import Membership

FULL = DeviceConfig(
    folder=Path("état/device"),
    source="rtsp://10.0.0.7/door",
    rate_hz=0.5,
    engines=(EngineName.LITERT, EngineName.OPENVINO),
    threads=2,
    race_s=0.0,
    select=SelectConfig(unsure_share=0.5),
    seed=7,
)


@pytest.mark.parametrize("config", [DeviceConfig(folder=Path("d")), FULL])
@pytest.mark.parametrize("as_json", [True, False])
def test_order_survives_the_way_through_a_pipe(config: DeviceConfig, as_json: bool) -> None:
    order = Order(config=config, as_json=as_json)
    again = from_text(to_text(order))
    assert again == order
    assert isinstance(again.config.folder, Path)


@pytest.fixture
def enrolled(tmp_path: Path) -> Path:
    """A device of a hub that is not there: its agent works, and tries again."""
    folder = tmp_path / "device"
    member = Membership(
        device_id="camera-1", kind=Kind.DEVICE, hub_url="http://127.0.0.1:9", images_root=b"i", director_root=b"d"
    )
    write_durable(folder / "membership.json", to_pretty_json(member))
    load_or_make_key(folder / "device.pem")
    return folder


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_run_becomes_the_agent_under_its_own_number_and_ends_well_when_told(enrolled: Path, tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise RuntimeError('what lies in the working folder was imported')")
    command = [sys.executable, "-P", "-m", "edgeloop", "device", "run", "--dir", str(enrolled), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert msgspec.json.decode(said) == {"ready": "device", "id": "camera-1"}
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=20)
    assert b"edgeloop.cli.agent" in words
    assert [name for name in ("pydantic_core", "numpy", "cv2", "litert") if name in mapped] == []
    assert process.returncode == 0, complaint


def test_failure_of_the_agent_ends_with_its_code_and_a_line(tmp_path: Path) -> None:
    order = tmp_path / "order"
    order.write_text(to_text(Order(config=DeviceConfig(folder=tmp_path / "nowhere"), as_json=False)))
    environment = {**os.environ, "NO_COLOR": "1"}
    with order.open() as file:
        command = [sys.executable, "-m", "edgeloop.cli.agent", str(file.fileno())]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env=environment, pass_fds=[file.fileno()]
        )
    assert done.returncode == 3
    assert "is not enrolled yet" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("source", ["ftp://10.0.0.7/a", "rtsp://", "-"])
def test_source_that_can_never_be_one_is_refused_before_anything_runs(enrolled: Path, source: str) -> None:
    command = [sys.executable, "-m", "edgeloop", "device", "run", "--dir", str(enrolled), "--source", source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 2
    assert "expected" in done.stderr or "name a camera" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_password_of_a_camera_is_not_for_everybody_to_see(enrolled: Path) -> None:
    command = [sys.executable, "-m", "edgeloop", "device", "run", "--dir", str(enrolled), "--json"]
    environment = {**os.environ, "EDGELOOP_SOURCE": "rtsp://admin:geheim@127.0.0.1:9/door"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert b"ready" in process.stdout.readline()
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=20)
    assert b"edgeloop.cli.agent" in words
    assert b"geheim" not in words
    assert process.returncode == 0, complaint


def test_order_that_a_pipe_does_not_hold_is_refused_by_its_size(enrolled: Path) -> None:
    command = [sys.executable, "-m", "edgeloop", "device", "run", "--dir", str(enrolled), "--source", "x" * 100_000]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 2
    assert "of which a pipe takes" in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_agent_whose_camera_is_not_there_runs_and_has_loaded_nothing_to_read_it(enrolled: Path) -> None:
    command = [sys.executable, "-m", "edgeloop", "device", "run", "--dir", str(enrolled), "--source", "/dev/video97"]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        process.send_signal(signal.SIGTERM)
        _, complaint = process.communicate(timeout=20)
    assert [name for name in ("numpy", "cv2", "litert") if name in mapped] == []
    assert process.returncode == 0, complaint
