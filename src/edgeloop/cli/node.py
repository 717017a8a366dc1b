"""The node: carries and answers for its devices."""

import socket
from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.cloud import DeviceBytes, DeviceHz, Host, Port, SampleKey, TlsCert, TlsKey
from edgeloop.cli.say import ready
from edgeloop.cli.service import add_service_commands, is_rehearsal
from edgeloop.cli.service.unit import Tier
from edgeloop.cli.show import AsJson
from edgeloop.contracts.states import Kind

app = typer.Typer(help="The node tier.", no_args_is_help=True)

Hub = Annotated[str | None, typer.Option(help="The hub above, such as https://cloud.example.org:8400.")]
Join = Annotated[
    str | None, typer.Option(envvar="EDGELOOP_JOIN", help="A join token, needed once ('edgeloop fleet token').")
]
Ca = Annotated[str | None, typer.Option(help="A certificate authority's PEM file, if the hub's is private.")]
Backoff = Annotated[float, typer.Option(min=0.1, help="The longest wait between tries while the hub is away, seconds.")]
OutboxMax = Annotated[str, typer.Option(help="What the outbox may take of the disk, such as 256MB.")]
KeepFree = Annotated[str, typer.Option(help="The outbox does not grow while its disk has less free than this.")]
Ttl = Annotated[
    list[str] | None,
    typer.Option(help="CLASS=DURATION: how long alerts, samples or readings may wait, such as reading=72h; repeat."),
]
DayBytes = Annotated[
    str, typer.Option(help="What downloads, readings and samples may use of the link a day, such as 20MB.")
]
DayBegins = Annotated[int, typer.Option(min=0, max=23, help="The hour, UTC, at which a day begins.")]
Answer = Annotated[bool, typer.Option(help="Predict here for devices that ask, where an engine is installed.")]


@app.callback()
def group() -> None:
    """The node tier."""


@app.command()
def run(
    context: typer.Context,
    folder: Annotated[Path, typer.Option("--dir", help="The node's folder.")] = Path("node"),
    hub: Hub = None,
    join: Join = None,
    node_id: Annotated[str, typer.Option("--id", help="The node's id.")] = "",
    host: Host = "127.0.0.1",
    port: Port = 8401,
    ca: Ca = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    longest_backoff_s: Backoff = 30.0,
    answer: Answer = True,
    outbox_max: OutboxMax = "4GB",
    keep_free: KeepFree = "512MB",
    ttl: Ttl = None,
    day_bytes: DayBytes = "",
    day_begins_h: DayBegins = 0,
    sample_key: SampleKey = None,
    device_hz: DeviceHz = 100.0,
    device_bytes: DeviceBytes = "8MB",
    as_json: AsJson = False,
) -> None:
    """Run a node until Ctrl-C; the first time with --hub and --join."""
    from edgeloop.cli.health import bounds_of
    from edgeloop.cli.units import parse_size_bytes
    from edgeloop.crowd import expect_a_crowd
    from edgeloop.hub.limits import limits_of
    from edgeloop.hub.serve import listening, require_listenable
    from edgeloop.node.app import run_node
    from edgeloop.node.config import NodeConfig
    from edgeloop.runtime.profile import this_machine
    from edgeloop.transport.membership import enrol

    listen = listening(folder, host, port, tls_cert, tls_key)
    config = NodeConfig(
        folder=folder,
        listen=listen,
        longest_backoff_s=longest_backoff_s,
        answers=answer,
        outbox=bounds_of(outbox_max, keep_free, ttl or ()),
        day_bytes=parse_size_bytes(day_bytes) if day_bytes else 0,
        day_begins_h=day_begins_h,
        sample_key=sample_key,
        limits=limits_of(device_hz, parse_size_bytes(device_bytes)),
    )
    if is_rehearsal(context):
        require_listenable(listen)
        require_way_in(folder, hub, join)
        return
    if hub is not None and join is not None:
        name = node_id or default_id("node")
        enrol(folder, hub_url=hub, token=join, device_id=name, kind=Kind.NODE, profile=this_machine(), ca=ca)
    expect_a_crowd()
    run_node(config, on_ready=lambda url: ready("node", as_json=as_json, url=url))


def default_id(kind: str) -> str:
    """An id from the machine's name."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname().lower()).strip("-")[:50]
    return f"{kind}-{host}" if host else kind


def require_way_in(folder: Path, hub: str | None, join: str | None) -> None:
    """Raise NotFound unless the folder is enrolled or both are given, InvalidInput if what is given is no token."""
    from edgeloop.contracts.join import parse_join_token
    from edgeloop.transport.membership import read_membership

    if hub is None or join is None:
        read_membership(folder)
    else:
        parse_join_token(join)


add_service_commands(app, Tier.NODE, verb="run")
