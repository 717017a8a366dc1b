"""Bundles in the cloud: publish, list."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.say import emit_json
from edgeloop.cli.show import OPERATOR_DEFAULT, AsJson, Operator, console, percent, show_table, size
from edgeloop.contracts.errors import InvalidInput
from edgeloop.transport.cloud_api import CloudApi, read_operator

app = typer.Typer(help="Published bundles.", no_args_is_help=True)


@app.command()
def publish(
    bundle: Annotated[Path, typer.Argument(help="A bundle file.")],
    key: Annotated[
        list[Path] | None,
        typer.Option(help="A targets key, if it is not where the operator file says; several where several must sign."),
    ] = None,
    operator: Operator = OPERATOR_DEFAULT,
    as_json: AsJson = False,
) -> None:
    """Sign a bundle with the targets key and publish it. Published versions never change."""
    from edgeloop.toolchain import publish as publishing

    where = read_operator(operator)
    chosen = key or ([Path(where.targets_key)] if where.targets_key else [])
    if not chosen:
        raise InvalidInput("the operator file names no targets key; give one with --key")
    with CloudApi(where) as api:
        view = publishing.publish(bundle, api, targets_key=chosen[0], further_keys=chosen[1:])
    if as_json:
        emit_json(view)
        return
    console.print(f"published {view.name}@{view.version}, manifest {view.manifest_sha256[:12]}", highlight=False)


@app.command("list")
def list_bundles(operator: Operator = OPERATOR_DEFAULT, as_json: AsJson = False) -> None:
    """All published bundles."""
    with CloudApi(read_operator(operator)) as api:
        bundles = api.bundles()
    if as_json:
        emit_json(bundles)
        return
    rows = [
        (
            f"{view.name}@{view.version}",
            f"{variant.engine} {variant.precision}",
            size(variant.size_bytes),
            percent(variant.measured.accuracy if variant.measured else None),
            view.manifest.lineage.parent or "-",
            datetime.fromtimestamp(view.published_at_s, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
        for view in bundles
        for variant in view.manifest.variants
    ]
    show_table("bundles", ("bundle", "variant", "size", "accuracy", "parent", "published"), rows)
