"""The cloud: found it, serve it."""

from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.say import emit_json, ready
from edgeloop.cli.show import AsJson, console

app = typer.Typer(help="The cloud tier.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--dir", help="The cloud's folder.")]
Host = Annotated[str, typer.Option(help="The address to listen on; others than loopback need TLS.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes any free one.")]
TlsCert = Annotated[Path | None, typer.Option(help="TLS certificate chain (PEM).")]
TlsKey = Annotated[Path | None, typer.Option(help="TLS private key (PEM).")]


@app.command()
def init(
    folder: Folder = Path("cloud"),
    keys: Annotated[Path, typer.Option(help="Where the offline keys go; the server never reads them.")] = Path("keys"),
    url: Annotated[str, typer.Option(help="Where the cloud will be reached.")] = "http://127.0.0.1:8400",
    as_json: AsJson = False,
) -> None:
    """Make a cloud: keys, roots of trust, database, the first operator."""
    from edgeloop.cloud.config import CloudConfig
    from edgeloop.cloud.found import found

    made = found(CloudConfig(folder=folder), keys=keys, url=url)
    if as_json:
        emit_json({"cloud": str(made.cloud), "keys": str(made.keys), "operator": str(made.operator)})
        return
    console.print(f"cloud in {made.cloud}, operator file {made.operator}", highlight=False)
    console.print(
        f"{made.keys}: root.pem and targets.pem sign what exists. Whoever has them can make devices run anything: "
        "move them off this machine once you publish from elsewhere, and keep a copy.",
        highlight=False,
    )


@app.command()
def serve(
    folder: Folder = Path("cloud"),
    host: Host = "127.0.0.1",
    port: Port = 8400,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    as_json: AsJson = False,
) -> None:
    """Serve the cloud until Ctrl-C."""
    from edgeloop.cloud.app import run_cloud
    from edgeloop.cloud.config import CloudConfig
    from edgeloop.hub.serve import Listen

    config = CloudConfig(folder=folder, listen=Listen(host, port, tls_cert, tls_key))
    run_cloud(config, on_ready=lambda url: ready("cloud", as_json=as_json, url=url))
