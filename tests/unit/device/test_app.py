"""What a device loads: import-linter sees our own imports, this sees those of libraries too."""

import subprocess
import sys
from pathlib import Path

HEAVY = ("keras", "tensorflow", "torch", "sklearn", "pandas", "litestar", "sqlalchemy", "matplotlib")


def _modules_after(statement: str) -> set[str]:
    # None stands for what may not be loaded.
    code = f"import sys\n{statement}\nprint(*(name for name in sys.modules if sys.modules[name] is not None))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


def test_device_loads_nothing_heavy() -> None:
    assert _modules_after("import edgeloop.device.app").isdisjoint(HEAVY)


def test_agent_without_a_model_has_loaded_nothing_that_only_a_model_needs() -> None:
    needed_later = ("numpy", "cv2", "ai_edge_litert", "onnxruntime", "openvino", "tuf", "edgeloop.runtime.predictor")
    assert _modules_after("import edgeloop.device.app").isdisjoint(needed_later)


def test_agent_that_waits_for_its_first_model_still_has_loaded_none_of_it(tmp_path: Path) -> None:
    """All that an agent is made of, up to the first answer of its hub: without it, nothing comes."""
    folder, images = tmp_path / "device", tmp_path / "images"
    images.mkdir()
    statement = f"""
import asyncio
from pathlib import Path
from edgeloop.contracts.states import Kind
from edgeloop.device.agent import Agent
from edgeloop.device.config import DeviceConfig
from edgeloop.runtime.profile import this_machine
from edgeloop.transport.identity import Identity, load_or_make_key
from edgeloop.transport.membership import Membership, open_client
from edgeloop.transport.uplink import Uplink

async def wait():
    folder, url = Path({str(folder)!r}), "http://127.0.0.1:9"
    member = Membership(device_id="cam", kind=Kind.DEVICE, hub_url=url, images_root=b"i", director_root=b"d")
    async with open_client(url) as client:
        uplink = Uplink(client, Identity("cam", load_or_make_key(folder / "device.pem")))
        config = DeviceConfig(folder=folder, source={str(images)!r})
        agent = Agent(config, member, uplink, profile=this_machine())
        try:
            await asyncio.wait_for(agent.run(), timeout=0.3)
        except TimeoutError:
            return
    raise AssertionError("an agent works until it is told to stop")

asyncio.run(wait())
"""
    assert _modules_after(statement).isdisjoint(("numpy", "cv2", "ai_edge_litert", "tuf"))


def test_process_of_the_agent_leaves_out_what_libraries_bring_for_command_lines() -> None:
    """httpx and structlog load click, rich and pygments where they find them: 6 MB. So does securesystemslib load what
    signs with keys that a cloud holds: boto3, 9 MB."""
    statement = """
import contextlib
import sys
from edgeloop.cli.agent import main
sys.argv = ["agent", "no order"]
with contextlib.suppress(BaseException):
    main()
import edgeloop.device.app
import edgeloop.transport.trust
"""
    loaded = _modules_after(statement)
    assert {"httpx", "tuf.ngclient"} <= loaded
    assert loaded.isdisjoint(("click", "rich", "pygments", "greenlet", "boto3", "botocore"))
