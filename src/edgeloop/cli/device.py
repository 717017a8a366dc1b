"""The device: runs models where the data is."""

from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.node import Backoff, Ca, Hub, Join, default_id
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import AsJson, console, show_table
from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.states import Kind

app = typer.Typer(help="The device tier.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--dir", help="The device's folder.")]


@app.command()
def run(
    folder: Folder = Path("device"),
    hub: Hub = None,
    join: Join = None,
    device_id: Annotated[str, typer.Option("--id", help="The device's id.")] = "",
    source: Annotated[Path | None, typer.Option(help="A folder of images, followed as files arrive.")] = None,
    rate_hz: Annotated[float, typer.Option(min=0, help="At most so many readings a second; 0 for no limit.")] = 0.0,
    engine: Annotated[list[EngineName] | None, typer.Option(help="Engines to use; all that are installed.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads an engine may use; measured unless told.")] = None,
    race_s: Annotated[
        float, typer.Option(min=0, help="Seconds to measure a new version's settings for; 0 for none.")
    ] = (1.0),
    ca: Ca = None,
    longest_backoff_s: Backoff = 30.0,
    seed: Annotated[int, typer.Option(help="Seed of the random audit.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run a device until Ctrl-C; the first time with --hub and --join."""
    from edgeloop.cli.agent import Order, become_agent
    from edgeloop.device.config import DeviceConfig
    from edgeloop.runtime.engines.installed import installed_engines
    from edgeloop.runtime.profile import this_machine
    from edgeloop.transport.membership import enrol, open_identity, read_membership

    config = DeviceConfig(
        folder=folder,
        source=source,
        rate_hz=rate_hz,
        engines=tuple(engine or installed_engines()),
        threads=threads,
        race_s=race_s,
        longest_backoff_s=longest_backoff_s,
        seed=seed,
    )
    if source is not None and not source.is_dir():
        raise NotFound(f"there is no folder {source} to read images from; make it, or name another with --source")
    if hub is not None and join is not None:
        name = device_id or default_id("device")
        enrol(folder, hub_url=hub, token=join, device_id=name, kind=Kind.DEVICE, profile=this_machine(), ca=ca)
    # What is not there is told by the command, before it is another process.
    open_identity(folder, read_membership(folder).device_id)
    become_agent(Order(config=config, as_json=as_json))


@app.command()
def status(folder: Folder = Path("device"), as_json: AsJson = False) -> None:
    """What a device runs and holds, read from its folder; needs no network and no running agent."""
    from edgeloop.device.agent import open_outbox
    from edgeloop.device.state import Versions
    from edgeloop.transport.keep import Keep
    from edgeloop.transport.membership import read_membership

    member = read_membership(folder)
    keep = Keep(folder / "device.db")
    versions = Versions(keep)
    outbox = open_outbox(folder, member.device_id)
    stats = outbox.stats()
    active, previous, update = versions.active, versions.previous, versions.update
    facts = {
        "id": member.device_id,
        "hub": member.hub_url,
        "active": active.bundle if active else None,
        "previous": previous.bundle if previous else None,
        "floor": str(versions.floor) if versions.floor else None,
        "update": f"{update.assignment.bundle} {update.state} {update.reason}".strip() if update else None,
        "outbox_pending": stats.pending_rows,
        "outbox_kept": stats.acknowledged_rows,
        "evicted": stats.evicted_rows,
    }
    outbox.close()
    keep.close()
    if as_json:
        emit_json(facts)
        return
    show_table(str(folder), ("", ""), [(name, "-" if value is None else str(value)) for name, value in facts.items()])
    console.print("the floor is the newest version confirmed here: nothing older is taken", style="dim")
