"""Certificates of a private authority: issue, renew, look."""

from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.say import emit_json
from edgeloop.cli.show import AsJson, console, show_table

app = typer.Typer(help="Certificates of this installation's private authority.", no_args_is_help=True)

Keys = Annotated[Path, typer.Option(help="The folder of the offline keys, with the authority's among them.")]
Folder = Annotated[Path, typer.Option("--dir", help="The cloud's or node's folder.")]
Days = Annotated[int, typer.Option(min=1, max=825, help="For how many days.")]


@app.command()
def issue(
    hosts: Annotated[str, typer.Argument(help="What clients call this server: HOST[,IP...].")],
    folder: Folder = Path("node"),
    keys: Keys = Path("keys"),
    days: Days = 397,
) -> None:
    """A certificate for a node or another server of this installation; it serves with it from its next start on."""
    from edgeloop.hub.tls import ServerFiles, parse_hosts
    from edgeloop.hub.tls import issue as issue_certificate

    files = ServerFiles(folder / "tls")
    issue_certificate(keys, files, parse_hosts(hosts), days=days)
    console.print(f"{files.cert} and {files.key} for {hosts}, good for {days} days", highlight=False)


@app.command()
def renew(folder: Folder = Path("cloud"), keys: Keys = Path("keys"), days: Days = 397) -> None:
    """A new certificate for the same names; a server that runs takes it within a minute."""
    from edgeloop.hub.tls import ServerFiles, hosts_of
    from edgeloop.hub.tls import issue as issue_certificate

    files = ServerFiles(folder / "tls")
    hosts = hosts_of(files)
    issue_certificate(keys, files, hosts, days=days)
    console.print(f"{files.cert} for {', '.join(hosts)}, good for {days} days", highlight=False)


@app.command()
def show(folder: Folder = Path("cloud"), as_json: AsJson = False) -> None:
    """For which names a folder's certificate is, and how long it is good."""
    from edgeloop.hub.tls import ServerFiles, days_left, hosts_of

    files = ServerFiles(folder / "tls")
    facts = {
        "names": ", ".join(hosts_of(files)),
        "days_left": round(days_left(files.cert), 1),
        "authority_days_left": round(days_left(files.ca), 1),
    }
    if as_json:
        emit_json(facts)
        return
    show_table(str(files.cert), ("", ""), [(name, str(value)) for name, value in facts.items()])
