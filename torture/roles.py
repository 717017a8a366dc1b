"""What the children of `warm` are: a cloud, a node, a device, as the command line would run them.

Each ends by a kill. Faults and marks are put on before: see `sabotage` and `marks`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture import points
from torture.warm import Order


def warm_up() -> None:
    """Import what any of them needs; nothing here may start a thread, or a fork would lose it."""
    from edgeloop.cli.logs import set_up_logging

    set_up_logging()
    import cv2
    import onnxruntime  # noqa: F401

    import edgeloop.cloud.app
    import edgeloop.device.app
    import edgeloop.device.examine
    import edgeloop.node.app
    import edgeloop.runtime.answering
    import edgeloop.runtime.load
    import edgeloop.runtime.replay
    import edgeloop.runtime.sources.open
    import edgeloop.transport.trust  # noqa: F401

    cv2.setNumThreads(1)


def become(order: Order) -> None:
    """Be it until killed."""
    from torture import sabotage

    for fault in order.faults:
        getattr(sabotage, fault)()
    role: Callable[..., None] = _ROLES[order.role]
    role(**order.settings)


def _cloud(folder: str, port: int = 0, full_at: str = "", full_on: str = "") -> None:
    from edgeloop.cli.say import ready
    from edgeloop.cloud.app import run_cloud
    from edgeloop.cloud.config import CloudConfig
    from edgeloop.hub.serve import Listen

    points.fill_at(full_at, full_on)
    config = CloudConfig(folder=Path(folder), listen=Listen(port=port))
    run_cloud(config, on_ready=lambda url: ready("cloud", as_json=True, url=url))


def _node(
    folder: str,
    port: int = 0,
    host: str = "127.0.0.1",
    tls_cert: str = "",
    tls_key: str = "",
    full_at: str = "",
    full_on: str = "",
) -> None:
    from edgeloop.cli.say import ready
    from edgeloop.hub.serve import Listen
    from edgeloop.node.app import run_node
    from edgeloop.node.config import NodeConfig

    points.fill_at(full_at, full_on)
    tls = {"tls_cert": Path(tls_cert), "tls_key": Path(tls_key)} if tls_cert else {}
    listen = Listen(host=host, port=port, **tls)
    config = NodeConfig(folder=Path(folder), listen=listen, send_every_s=0.02, longest_backoff_s=0.2)
    run_node(config, on_ready=lambda url: ready("node", as_json=True, url=url))


def _device(folder: str, source: str, rate_hz: float = 0.0, race_s: float = 0.0, marks: str = "", **place: str) -> None:
    """marks: a named pipe for what it does, see `marks`. place: netns, the network namespace that it lives in; full_at
    and full_on, see `points`.
    """
    from edgeloop.cli.say import ready
    from edgeloop.device.app import run_device

    if netns := place.get("netns"):
        from torture.links import enter

        enter(netns)
    if marks:
        from torture import marks as marking

        marking.put_on(Path(marks))
    points.fill_at(place.get("full_at", ""), place.get("full_on", ""))
    config = _device_config(Path(folder), source, rate_hz=rate_hz, race_s=race_s)
    run_device(config, on_ready=lambda _: ready("device", as_json=True))


def _device_config(folder: Path, source: str, *, rate_hz: float, race_s: float) -> Any:
    """A device that hurries: one thread, short waits, a sample for every tenth reading."""
    from edgeloop.contracts.manifest import EngineName
    from edgeloop.device.config import DeviceConfig, SelectConfig

    return DeviceConfig(
        folder=folder,
        source=source,
        rate_hz=rate_hz,
        cache=False,
        engines=(EngineName.ONNXRUNTIME,),
        threads=1,
        race_s=race_s,
        send_every_s=0.02,
        longest_backoff_s=0.2,
        select=SelectConfig(audit_share=0.1),
    )


_ROLES: dict[str, Callable[..., None]] = {"cloud": _cloud, "node": _node, "device": _device}
