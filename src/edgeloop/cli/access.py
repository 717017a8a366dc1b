"""Who may do what in a cloud, and who did what."""

import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from edgeloop.bundle.durable import write_durable
from edgeloop.cli.say import emit_json, printable
from edgeloop.cli.show import OPERATOR_DEFAULT, AsJson, Operator, console, show_table
from edgeloop.contracts.access import AccessRequest, Role
from edgeloop.contracts.codec import to_pretty_json
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.names import require_name
from edgeloop.transport.cloud_api import CloudApi, read_operator

app = typer.Typer(help="API tokens, their roles, and the log of what was done with them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Whose token, such as alice or build-server.")]


@app.command("list")
def list_access(operator: Operator = OPERATOR_DEFAULT, as_json: AsJson = False) -> None:
    """Who has a token."""
    with CloudApi(read_operator(operator)) as api:
        views = api.access()
    if as_json:
        emit_json(views)
        return
    rows = [(v.name, v.role, v.created_by or "cloud init", when(v.created_at_s), when(v.expires_at_s)) for v in views]
    show_table("access", ("name", "role", "made by", "made", "expires"), rows)


@app.command()
def add(
    name: Name,
    role: Annotated[Role, typer.Option(help="viewer looks, operator runs the fleet, owner says who may.")],
    valid_h: Annotated[float | None, typer.Option(min=0.01, help="For how many hours; for good unless told.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where an operator file for them goes; else the token is shown.")
    ] = None,
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Give somebody a token; it is shown this once."""
    request = AccessRequest(
        name=require_name(name, what="name"), role=role, valid_s=None if valid_h is None else valid_h * 3600
    )
    own = read_operator(operator)
    with CloudApi(own) as api:
        made = api.add_access(request)
    if out is not None:
        pem = own.ca_pem or (Path(own.ca).read_text(encoding="ascii") if own.ca else None)
        entry = msgspec.structs.replace(own, token=made.token, targets_key=None, ca=None, ca_pem=pem)
        write_durable(out, to_pretty_json(entry), mode=0o600)
        console.print(f"operator file for {name} ({role}) in {out}; it holds the token", highlight=False)
    elif as_json:
        emit_json(made)
    else:
        typer.echo(made.token)


@app.command()
def revoke(name: Name, operator: Operator = OPERATOR_DEFAULT) -> None:
    """Take somebody's token back; it is worth nothing from its next request on."""
    with CloudApi(read_operator(operator)) as api:
        api.revoke_access(name)
    console.print(f"{name} has no access any more", highlight=False)


@app.command()
def log(
    before: Annotated[int | None, typer.Option(min=1, help="Only entries before this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first.")] = 50,
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Who did what, newest first; nothing leaves it but by 'access cut'."""
    with CloudApi(read_operator(operator)) as api:
        entries = api.access_log(before=before, limit=limit)
    if as_json:
        emit_json(entries)
        return
    rows = [
        (
            str(one.entry),
            when(one.at_s),
            f"{one.who} ({one.role})",
            one.address,
            one.action,
            printable(f"{one.target} {one.detail}".strip()) or "-",
            one.outcome or "not known: the cloud ended",
        )
        for one in entries
    ]
    show_table("log", ("entry", "when (UTC)", "who", "from", "did", "what", "outcome"), rows)


@app.command()
def recover(
    folder: Annotated[Path, typer.Option("--dir", help="The cloud's folder.")] = Path("cloud"),
    out: Annotated[Path, typer.Option(help="Where the operator file goes.")] = Path("operator-recovered.json"),
) -> None:
    """A new owner, made at the server's own database: for when every owner's token was lost."""
    import secrets

    from edgeloop.cloud.config import CloudConfig
    from edgeloop.cloud.found import require_founded
    from edgeloop.cloud.store import access
    from edgeloop.cloud.store.database import Database

    config = CloudConfig(folder=folder)
    require_founded(config)
    own = read_operator(folder / "operator.json")
    request = AccessRequest(name=f"recovered-{secrets.token_hex(3)}", role=Role.OWNER)
    database = Database(config.sqlalchemy_url)
    try:
        token = database.write_now(lambda c: access.recover(c, request, now_s=time.time()))
    finally:
        database.close()
    write_durable(out, to_pretty_json(msgspec.structs.replace(own, token=token)), mode=0o600)
    console.print(f"owner {request.name}, operator file in {out}", highlight=False)


@app.command()
def cut(
    out: Annotated[Path, typer.Argument(help="Where the export goes, a line of JSON each; must not be there yet.")],
    older_than_days: Annotated[float, typer.Option(min=1.0, help="Lines older than this.")] = 365.0,
    folder: Annotated[Path, typer.Option("--dir", help="The cloud's folder.")] = Path("cloud"),
    database: Annotated[
        str | None,
        typer.Option("--database", envvar="EDGELOOP_DATABASE", help="postgresql+psycopg://..., else the folder's."),
    ] = None,
) -> None:
    """Export the log's older lines, and take them out; at the server's own database, also while it serves."""
    from edgeloop.bundle.archive import digest
    from edgeloop.cloud.config import CloudConfig
    from edgeloop.cloud.found import require_founded
    from edgeloop.cloud.store import cutting
    from edgeloop.cloud.store.database import Database

    if out.exists():
        raise InvalidInput(f"{out} is there already; name a file that is not, so that no export is lost")
    config = CloudConfig(folder=folder, database_url=database)
    require_founded(config)
    now_s = time.time()
    opened = Database(config.sqlalchemy_url, migrates=False)
    try:
        entries = opened.read_now(lambda c: cutting.older_than(c, now_s - older_than_days * 86_400))
        if entries:
            lines = cutting.as_lines(entries)
            write_durable(out, lines, mode=0o600)
            opened.write_now(lambda c: cutting.cut(c, entries[-1].entry, sha256=digest(lines), now_s=now_s))
    finally:
        opened.close()
    said = f"{len(entries):,} lines exported to {out}, and cut" if entries else "no line is as old; nothing was done"
    console.print(said, highlight=False)


def when(at_s: float | None) -> str:
    """A time for people, in UTC."""
    return "-" if at_s is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(at_s))
