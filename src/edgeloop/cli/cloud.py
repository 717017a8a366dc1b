"""The cloud: found it, serve it, tidy it, migrate it, back it up, restore it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeloop.cli.say import emit_json, ready
from edgeloop.cli.service import add_service_commands, is_rehearsal
from edgeloop.cli.service.unit import Tier
from edgeloop.cli.show import AsJson, console

if TYPE_CHECKING:
    from edgeloop.cloud.store.tidying import Keep

app = typer.Typer(help="The cloud tier.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--dir", help="The cloud's folder.")]
Host = Annotated[str, typer.Option(help="The address to listen on; others than loopback need TLS.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes any free one.")]
TlsCert = Annotated[Path | None, typer.Option(help="TLS certificate chain (PEM).")]
Database = Annotated[
    str | None,
    typer.Option("--database", envvar="EDGELOOP_DATABASE", help="postgresql+psycopg://..., else SQLite in the folder."),
]
Blobs = Annotated[
    str | None, typer.Option("--blobs", envvar="EDGELOOP_BLOBS", help="s3://BUCKET/PREFIX, else files in the folder.")
]
TlsKey = Annotated[Path | None, typer.Option(help="TLS private key (PEM).")]
SampleKey = Annotated[
    str | None, typer.Option(help="Seal samples that lie here with the keys of this FILE, env:NAME or command:PROGRAM.")
]
DeviceHz = Annotated[float, typer.Option(help="Requests a second that one device or node may make.")]
DeviceBytes = Annotated[str, typer.Option(help="What one device or node may send a second, such as 8MB.")]

KeepReadings = Annotated[str | None, typer.Option(help="Remove readings that came up so long ago, such as 90d.")]
KeepAlerts = Annotated[str | None, typer.Option(help="Remove alerts that came up so long ago, such as 365d.")]
KeepSamples = Annotated[
    str | None, typer.Option(help="Remove samples that came up so long ago and that nobody labelled, such as 30d.")
]


@app.command()
def init(
    folder: Folder = Path("cloud"),
    keys: Annotated[Path, typer.Option(help="Where the offline keys go; the server never reads them.")] = Path("keys"),
    url: Annotated[str | None, typer.Option(help="Where it will be reached; told from --tls, else loopback.")] = None,
    tls: Annotated[
        str | None, typer.Option(help="HOST[,IP...]: make a private CA and a certificate for these names.")
    ] = None,
    database: Database = None,
    blobs: Blobs = None,
    as_json: AsJson = False,
) -> None:
    """Make a cloud: keys, roots of trust, database, the first operator; with --tls certificates, too."""
    from edgeloop.cloud.config import CloudConfig
    from edgeloop.cloud.found import found
    from edgeloop.hub.tls import parse_hosts

    hosts = () if tls is None else parse_hosts(tls)
    config = CloudConfig(folder=folder, database_url=database, blobs_url=blobs)
    made = found(config, keys=keys, url=url or _default_url(hosts), hosts=hosts)
    if as_json:
        emit_json({"cloud": str(made.cloud), "keys": str(made.keys), "operator": str(made.operator)})
        return
    console.print(f"cloud in {made.cloud}, operator file {made.operator}", highlight=False)
    console.print(
        f"{made.keys}: root.pem and targets.pem sign what exists. Whoever has them can make devices run anything: "
        "move them off this machine once you publish from elsewhere, and keep a copy.",
        highlight=False,
    )
    if hosts:
        console.print(
            f"{made.cloud / 'tls'}: the certificate for {', '.join(hosts)}, which 'cloud serve' uses; "
            f"{made.keys}/tls-ca.key signs the next one ('edgeloop tls renew')",
            highlight=False,
        )


def _default_url(hosts: tuple[str, ...]) -> str:
    if not hosts:
        return "http://127.0.0.1:8400"
    return f"https://[{hosts[0]}]:8400" if ":" in hosts[0] else f"https://{hosts[0]}:8400"


@app.command()
def serve(
    context: typer.Context,
    folder: Folder = Path("cloud"),
    host: Host = "127.0.0.1",
    port: Port = 8400,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    database: Database = None,
    blobs: Blobs = None,
    migrates: Annotated[
        bool, typer.Option("--migrate/--no-migrate", help="Bring an older schema up to date at the start.")
    ] = True,
    sample_key: SampleKey = None,
    device_hz: DeviceHz = 100.0,
    device_bytes: DeviceBytes = "8MB",
    keep_readings: KeepReadings = None,
    keep_alerts: KeepAlerts = None,
    keep_samples: KeepSamples = None,
    as_json: AsJson = False,
) -> None:
    """Serve the cloud until Ctrl-C; on PostgreSQL as one of several replicas."""
    from edgeloop.cli.units import parse_size_bytes
    from edgeloop.cloud.app import run_cloud
    from edgeloop.cloud.config import CloudConfig
    from edgeloop.cloud.found import require_founded
    from edgeloop.crowd import expect_a_crowd
    from edgeloop.hub.limits import limits_of
    from edgeloop.hub.serve import listening, require_listenable

    config = CloudConfig(
        folder=folder,
        listen=listening(folder, host, port, tls_cert, tls_key),
        database_url=database,
        blobs_url=blobs,
        migrates=migrates,
        sample_key=sample_key,
        limits=limits_of(device_hz, parse_size_bytes(device_bytes)),
        keep=_keep(keep_readings, keep_alerts, keep_samples),
    )
    if is_rehearsal(context):
        require_founded(config)
        require_listenable(config.listen)
        return
    expect_a_crowd()
    run_cloud(config, on_ready=lambda url: ready("cloud", as_json=as_json, url=url))


@app.command()
def tidy(
    folder: Folder = Path("cloud"),
    keep_readings: KeepReadings = None,
    keep_alerts: KeepAlerts = None,
    keep_samples: KeepSamples = None,
    database: Database = None,
    blobs: Blobs = None,
    as_json: AsJson = False,
) -> None:
    """Remove now what is older than it is to be kept; a cloud on SQLite must not be served meanwhile."""
    from edgeloop.cloud.config import CloudConfig
    from edgeloop.cloud.tidy import account, tidy_cloud

    config = CloudConfig(folder=folder, database_url=database, blobs_url=blobs)
    removed = account(tidy_cloud(config, _keep(keep_readings, keep_alerts, keep_samples)))
    if as_json:
        emit_json(removed)
        return
    console.print(f"removed: {_told(dict(removed))}", highlight=False)


def _keep(readings: str | None, alerts: str | None, samples: str | None) -> "Keep":
    from edgeloop.cli.units import parse_duration_s
    from edgeloop.cloud.store.tidying import Keep
    from edgeloop.cloud.tidy import require_sane

    readings_s, alerts_s, samples_s = (
        None if text is None else parse_duration_s(text) for text in (readings, alerts, samples)
    )
    return require_sane(Keep(readings_s=readings_s, alerts_s=alerts_s, samples_s=samples_s))


@app.command()
def migrate(
    folder: Folder = Path("cloud"),
    to: Annotated[
        str | None, typer.Option("--to", help="The version to go to, such as 0003; an older one loses what it lacks.")
    ] = None,
    lose_roots: Annotated[
        bool, typer.Option("--lose-roots", help="Go back even where there is no place for the roots of trust.")
    ] = False,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Bring the database's schema to a version, the newest unless told."""
    from edgeloop.cloud.config import CloudConfig
    from edgeloop.cloud.migrate import migrate_cloud

    config = CloudConfig(folder=folder, database_url=database)
    before, after = migrate_cloud(config, to=to, lose_roots=lose_roots)
    if as_json:
        emit_json({"from": before, "to": after})
        return
    console.print(f"schema {after} already" if before == after else f"schema {before} -> {after}", highlight=False)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where to write it; must not be there yet.")],
    folder: Folder = Path("cloud"),
    database: Database = None,
    blobs: Blobs = None,
    as_json: AsJson = False,
) -> None:
    """Write the whole cloud to one file, also while it serves."""
    from edgeloop.cloud.backup.make import back_up
    from edgeloop.cloud.config import CloudConfig

    made = back_up(CloudConfig(folder=folder, database_url=database, blobs_url=blobs), file)
    if as_json:
        emit_json({"file": str(file), **made.figures()})
        return
    console.print(f"{file}: {_told(made.figures())}", highlight=False)
    console.print("It holds the keys that the server signs with: keep it as you keep these.", highlight=False)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What 'cloud backup' wrote.")],
    folder: Folder = Path("cloud"),
    database: Database = None,
    blobs: Blobs = None,
    as_json: AsJson = False,
) -> None:
    """Make a cloud of a backup, where there is none: also on another kind of database or place for blobs."""
    from edgeloop.cloud.backup.restore import restore as restore_cloud
    from edgeloop.cloud.config import CloudConfig

    made = restore_cloud(CloudConfig(folder=folder, database_url=database, blobs_url=blobs), file)
    if as_json:
        emit_json({"cloud": str(folder), **made.figures()})
        return
    console.print(f"{folder}: {_told(made.figures())}. 'edgeloop cloud serve' serves it.", highlight=False)
    console.print(
        "Devices that saw a later list of bundles than this backup has take no update until it is signed anew: run "
        "'edgeloop keys lift', where the targets key is, once the cloud is served.",
        highlight=False,
    )


def _told(figures: dict[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())


add_service_commands(app, Tier.CLOUD, verb="serve")
