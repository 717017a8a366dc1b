"""The two commands, for each tier the same."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.given import refuse_ignored
from edgeloop.cli.say import emit_json
from edgeloop.cli.service import systemctl
from edgeloop.cli.service.account import find_account, give_folder, groups_for_sensors, require_linux, try_as
from edgeloop.cli.service.files import Places, places, remove_service, require_ours, write_service
from edgeloop.cli.service.options import RunOptions, read_options
from edgeloop.cli.service.quoting import is_variable_name
from edgeloop.cli.service.unit import Service, Tier, unit_text
from edgeloop.cli.show import AsJson, console
from edgeloop.contracts.errors import InvalidInput
from edgeloop.contracts.names import require_name

Name = Annotated[str, typer.Option(help="The service's name, to have several on one machine; else edgeloop-TIER.")]
IsOwn = Annotated[bool, typer.Option("--user", help="A service of your own, which needs no root.")]
RunAs = Annotated[str, typer.Option(help="The account that it runs as; you, with --user.")]
Variables = Annotated[
    list[str] | None, typer.Option("--variable", help="A variable of yours that it needs, by its name; repeat.")
]
Force = Annotated[bool, typer.Option("--force", help="Write over a unit of that name which says something else.")]
Now = Annotated[bool, typer.Option("--now", help="Have systemd start it, now and at each start of the machine.")]
Print = Annotated[bool, typer.Option("--print", help="Only print the unit; write nothing.")]
_ACCOUNT = "edgeloop"


def add_service_commands(app: typer.Typer, tier: Tier, *, verb: str) -> None:
    """Give a tier its two commands. verb: the command of `app` that the service runs."""

    def install_service(
        context: typer.Context,
        run_options: Annotated[
            list[str] | None,
            typer.Argument(metavar="-- OPTIONS", help=f"What '{tier} {verb}' is to be told, after --."),
        ] = None,
        name: Name = "",
        is_own: IsOwn = False,
        run_as: RunAs = _ACCOUNT,
        variables: Variables = None,
        force: Force = False,
        now: Now = False,
        prints: Print = False,
        as_json: AsJson = False,
    ) -> None:
        if is_own:
            refuse_ignored(context, ["run_as"], "has no meaning with --user")
        if prints:
            refuse_ignored(context, ["now", "force", "as_json"], "has no meaning with --print")
        command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]  # a group has commands
        told = read_options(command, run_options or (), name=f"edgeloop {tier} {verb}")
        told.variables.update(_carried(variables or ()))
        _require_sample_key(told)
        service = _service(tier, verb, name or f"edgeloop-{tier}", told, account=None if is_own else run_as)
        text = unit_text(service)
        if prints:
            typer.echo(text, nl=False)
            return
        _install(service, text, told, force=force)
        following = systemctl.to_start(service.name, is_own=is_own)
        if now:
            systemctl.ask(following, name=service.name, is_own=is_own)
            following = []
        (_emit if as_json else _tell)(service, told, following)

    def uninstall_service(name: Name = "", is_own: IsOwn = False, as_json: AsJson = False) -> None:
        chosen = require_name(name or f"edgeloop-{tier}", what="service")
        where = _places(chosen, is_own)
        require_ours(where, tier=tier)
        require_linux(root=not is_own)
        if systemctl.is_running():
            systemctl.ask(systemctl.to_remove(chosen, is_own=is_own), name=chosen, is_own=is_own)
        gone = remove_service(where)
        if systemctl.is_running():
            systemctl.ask(systemctl.to_forget(is_own=is_own), name=chosen, is_own=is_own)
        if as_json:
            emit_json({"service": chosen, "removed": [str(path) for path in gone]})
            return
        console.print(f"{chosen} is stopped and gone ({', '.join(map(str, gone))}); its folder stays", markup=False)

    install_service.__doc__ = (
        f"Write a unit of systemd that runs '{tier} {verb}' with these options, always; secrets go to a file apart."
    )
    uninstall_service.__doc__ = "Stop such a service and remove its unit and its variables; what it keeps stays."
    # What it does not know is run's, also where somebody forgot the two dashes.
    app.command("install-service", context_settings={"ignore_unknown_options": True})(install_service)
    app.command("uninstall-service")(uninstall_service)


def _carried(names: Sequence[str]) -> dict[str, str]:
    """Variables of this process, by name. Raises InvalidInput if one is not set."""
    missing = [name for name in names if not is_variable_name(name) or name not in os.environ]
    if missing:
        raise InvalidInput(f"--variable {missing[0]}: no such variable is set here; set and export it first")
    return {name: os.environ[name] for name in names}


def _require_sample_key(told: RunOptions) -> None:
    kind, colon, name = (told.sample_key or "").partition(":")
    if colon and kind == "env" and name not in told.variables:
        raise InvalidInput(f"--sample-key env:{name}: the service will not have that variable; give --variable {name}")


def _service(tier: Tier, verb: str, name: str, told: RunOptions, *, account: str | None) -> Service:
    is_own = account is None
    reads = (*told.reads, told.folder, Path(sys.executable), Path(sys.base_prefix), Path(__file__))
    return Service(
        name=require_name(name, what="service"),
        tier=tier,
        program=sys.executable,
        # -P: else -m would import what lies in the working folder before what is installed.
        arguments=("-P", "-m", "edgeloop", tier, verb, *told.words),
        folder=told.folder,
        # A link is read, and what it leads to.
        reads=tuple(dict.fromkeys(path for one in reads for path in (one, one.resolve()))),
        environment_file=_places(name, is_own).environment,
        account=account,
        groups=() if is_own or tier is Tier.CLOUD else groups_for_sensors(),
        port=told.port,
    )


def _install(service: Service, text: str, told: RunOptions, *, force: bool) -> None:
    is_own = service.account is None
    require_linux(root=not is_own)
    account = None
    if service.account is not None:
        account = find_account(service.account, extra=service.groups)
        try_as(account, service.program, reads=told.reads, enters=told.folder.parent)
    give_folder(told.folder, account)
    if account is not None:
        try_as(account, service.program, reads=(), enters=told.folder)  # in what was made for it, too
    write_service(_places(service.name, is_own), text, told.variables, name=service.name, force=force)


def _places(name: str, is_own: bool) -> Places:
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() if is_own else None
    return places(name, home=home)


def _emit(service: Service, told: RunOptions, following: list[list[str]]) -> None:
    where = _places(service.name, service.account is None)
    emit_json(
        {
            "service": service.name,
            "unit": str(where.unit),
            "variables": sorted(told.variables),
            "started": not following,
            "next": following,
        }
    )


def _tell(service: Service, told: RunOptions, following: list[list[str]]) -> None:
    where = _places(service.name, service.account is None)
    console.print(f"unit in {where.unit}", highlight=False, markup=False, soft_wrap=True)
    if told.variables:
        held = ", ".join(told.variables)
        console.print(
            f"{held} in {where.environment}, readable by its owner alone", highlight=False, markup=False, soft_wrap=True
        )
    if not following:
        console.print(f"{service.name} runs, and will at each start of the machine", highlight=False)
        return
    console.print("nothing is started yet; next:", highlight=False)
    for words in following:
        console.print(f"  {' '.join(words)}", highlight=False)
