"""The device: runs models where the data is."""

from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.cloud import SampleKey
from edgeloop.cli.node import (
    Backoff,
    Ca,
    DayBegins,
    DayBytes,
    Hub,
    Join,
    KeepFree,
    OutboxMax,
    Ttl,
    default_id,
    require_way_in,
)
from edgeloop.cli.say import emit_json
from edgeloop.cli.service import add_service_commands, is_rehearsal
from edgeloop.cli.service.unit import Tier
from edgeloop.cli.show import AsJson, console, show_table
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.manifest import EngineName
from edgeloop.contracts.states import Kind

app = typer.Typer(help="The device tier.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--dir", help="The device's folder.")]
RowNumbers = Annotated[list[int] | None, typer.Option(min=1, help="A row that is set aside; repeat for more.")]


@app.command()
def run(
    context: typer.Context,
    folder: Folder = Path("device"),
    hub: Hub = None,
    join: Join = None,
    device_id: Annotated[str, typer.Option("--id", help="The device's id.")] = "",
    source: Annotated[
        str | None,
        typer.Option(
            envvar="EDGELOOP_SOURCE",
            help="A camera (0, /dev/video0), an rtsp:// or http:// URL, a video, a folder, a .wav, a .csv.",
        ),
    ] = None,
    rate_hz: Annotated[float, typer.Option(min=0, help="At most so many readings a second; 0 for no limit.")] = 0.0,
    engine: Annotated[list[EngineName] | None, typer.Option(help="Engines to use; all that are installed.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads an engine may use; measured unless told.")] = None,
    race_s: Annotated[
        float, typer.Option(min=0, help="Seconds to measure a new version's settings for; 0 for none.")
    ] = (1.0),
    accept_s: Annotated[
        float, typer.Option(min=1.0, help="The longest that trying a new version may take, all its variants together.")
    ] = 45.0,
    answer_s: Annotated[
        float, typer.Option(min=0.1, help="The longest that a version may take for one input before it counts as hung.")
    ] = 10.0,
    keep_versions: Annotated[int, typer.Option(min=2, help="Versions that stay here, with the one that runs.")] = 3,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Let an answer stand while the input does not change.")
    ] = True,
    outbox_max: OutboxMax = "256MB",
    keep_free: KeepFree = "64MB",
    ttl: Ttl = None,
    day_bytes: DayBytes = "",
    day_begins_h: DayBegins = 0,
    ca: Ca = None,
    longest_backoff_s: Backoff = 30.0,
    sample_key: SampleKey = None,
    seed: Annotated[int, typer.Option(help="Seed of the random audit.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run a device until Ctrl-C; the first time with --hub and --join."""
    from edgeloop.cli.agent import Order, become_agent
    from edgeloop.cli.health import bounds_of
    from edgeloop.cli.units import parse_size_bytes
    from edgeloop.device.config import DeviceConfig
    from edgeloop.runtime.engines.installed import installed_engines
    from edgeloop.runtime.profile import this_machine
    from edgeloop.runtime.sources.names import check_lasting
    from edgeloop.transport.membership import enrol, open_identity, read_membership

    config = DeviceConfig(
        folder=folder,
        source=source,
        rate_hz=rate_hz,
        cache=cache,
        engines=tuple(engine or installed_engines()),
        threads=threads,
        race_s=race_s,
        accept_s=accept_s,
        answer_s=answer_s,
        keep_versions=keep_versions,
        longest_backoff_s=longest_backoff_s,
        outbox=bounds_of(outbox_max, keep_free, ttl or ()),
        day_bytes=parse_size_bytes(day_bytes) if day_bytes else 0,
        day_begins_h=day_begins_h,
        sample_key=sample_key,
        seed=seed,
    )
    if source is not None:
        check_lasting(source)
    if is_rehearsal(context):
        require_way_in(folder, hub, join)
        return
    if hub is not None and join is not None:
        name = device_id or default_id("device")
        enrol(folder, hub_url=hub, token=join, device_id=name, kind=Kind.DEVICE, profile=this_machine(), ca=ca)
    # What is not there is told by the command, before it is another process.
    open_identity(folder, read_membership(folder).device_id)
    become_agent(Order(config=config, as_json=as_json))


@app.command()
def rollback(
    version: Annotated[str, typer.Argument(help="NAME@VERSION or VERSION; the one that ran before unless told.")] = "",
    folder: Folder = Path("device"),
    as_json: AsJson = False,
) -> None:
    """Go back to a version that is kept here; needs no network, and may be done while the agent runs."""
    from edgeloop.device.rollback import roll_back
    from edgeloop.transport.membership import read_membership

    read_membership(folder)  # else a mistyped folder would be made
    chosen = roll_back(folder, version)
    if as_json:
        emit_json({"active": chosen.bundle})
        return
    console.print(f"{chosen.bundle} runs here now; what ran before is not taken again by itself")


@app.command()
def status(folder: Folder = Path("device"), as_json: AsJson = False) -> None:
    """What a device runs and holds, read from its folder; needs no network and no running agent."""
    from edgeloop.cli.health import show_accounts, show_day
    from edgeloop.device.agent import open_outbox
    from edgeloop.device.state import Versions
    from edgeloop.transport.budget import Budget, DaySettings
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
        "older": ", ".join(one.bundle for one in versions.older[1:]) or None,
        "floor": str(versions.floor) if versions.floor else None,
        "update": f"{update.assignment.bundle} {update.state} {update.reason}".strip() if update else None,
        "outbox_pending": stats.pending_rows,
        "outbox_kept": stats.kept_rows,
        "evicted": stats.evicted_rows,
        "set_aside": stats.aside_rows,
    }
    settings = keep.get("day_settings", DaySettings) or DaySettings()
    budget = Budget(keep, limit_bytes=settings.limit_bytes, begins_h=settings.begins_h)
    spending, day, next_h = budget.spending(stats.accounts), budget.today(), budget.until_next_s() / 3600
    outbox.close()
    keep.close()
    if as_json:
        emit_json(facts | {"outbox": stats.accounts, "day": spending, "spent": day.spent})
        return
    show_table(str(folder), ("", ""), [(name, "-" if value is None else str(value)) for name, value in facts.items()])
    console.print("the floor is the newest version confirmed here: nothing older is taken", style="dim")
    show_accounts("outbox", stats.accounts)
    show_day(day, spending, next_h=next_h)


@app.command()
def outbox(
    folder: Annotated[Path, typer.Option("--dir", help="The device's folder, or a node's.")] = Path("device"),
    retry: RowNumbers = None,
    drop: RowNumbers = None,
    retry_all: Annotated[bool, typer.Option("--retry-all", help="Queue all again that is set aside.")] = False,
    drop_all: Annotated[bool, typer.Option("--drop-all", help="Give up all that is set aside.")] = False,
    as_json: AsJson = False,
) -> None:
    """What became of every event, and what was set aside; to send that again, or give it up. The agent may run."""
    from edgeloop.cli.health import show_accounts
    from edgeloop.device.agent import open_outbox
    from edgeloop.transport.membership import read_membership

    if sum(map(bool, (retry, drop, retry_all, drop_all))) > 1:
        raise InvalidInput("--retry, --drop, --retry-all and --drop-all exclude one another; give one of them")
    opened = open_outbox(folder, read_membership(folder).device_id)
    try:
        everything = [one.row for one in opened.aside()]
        queued = opened.retry(everything if retry_all else retry or ())
        given_up = opened.drop(everything if drop_all else drop or ())
        accounts, aside = opened.stats().accounts, opened.aside()
    finally:
        opened.close()
    if as_json:
        emit_json({"accounts": accounts, "aside": aside, "queued": queued, "given_up": given_up})
        return
    if queued or given_up:
        console.print(f"{queued} queued again, {given_up} given up")
    show_accounts("outbox", accounts)
    show_table(
        "set aside",
        ("row", "device", "event", "class", "bytes", "why"),
        [
            (str(one.row), one.device_id, f"{one.epoch}.{one.sequence}", one.kind, f"{one.size_bytes:,}", one.reason)
            for one in aside
        ],
    )


add_service_commands(app, Tier.DEVICE, verb="run")
