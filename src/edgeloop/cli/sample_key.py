"""Keys that samples are sealed with."""

from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.show import console

app = typer.Typer(help="Keys that samples are sealed with on disks and in the bucket.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="The key file; its owner's alone.")]


@app.command()
def make(path: File) -> None:
    """Make a key file, for --sample-key."""
    from edgeloop.transport.seal import make_keys

    _told(path, make_keys(path).ids)


@app.command()
def rotate(
    path: File,
    keep: Annotated[
        int | None, typer.Option(min=0, help="Keep only so many older keys; what the others sealed is lost.")
    ] = None,
) -> None:
    """Put a new key first; what older ones sealed still opens. Takes effect when the service is next started."""
    from edgeloop.transport.seal import rotate_keys

    _told(path, rotate_keys(path, keep=keep).ids)


@app.command()
def show(path: File) -> None:
    """The ids of the keys, the one that seals first."""
    from edgeloop.transport.seal import open_keyring

    _told(path, open_keyring(str(path), {}).ids)


def _told(path: Path, ids: tuple[str, ...]) -> None:
    console.print(f"{path}: seals with {ids[0]}, opens also {', '.join(ids[1:]) or 'nothing older'}", highlight=False)
