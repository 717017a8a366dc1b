"""Target profiles: the devices that models are made for."""

from pathlib import Path
from typing import Annotated

import typer

from edgeloop.cli.progress import progress_bar
from edgeloop.cli.say import emit_json
from edgeloop.cli.show import AsJson, console, show_table, size

app = typer.Typer(help="The devices that models are made for.", no_args_is_help=True)


@app.command("list")
def list_profiles(as_json: AsJson = False) -> None:
    """List the devices that are known by name."""
    from edgeloop.toolchain.profiles.known import KNOWN

    if as_json:
        emit_json(list(KNOWN.values()))
        return
    rows = [
        (
            one.name,
            one.title,
            size(one.memory_bytes),
            ", ".join(one.engines),
            ", ".join(f"{speed.precision} {_rate(speed.multiply_adds_per_s)}" for speed in one.speeds) or "unknown",
        )
        for one in KNOWN.values()
    ]
    columns = ("name", "device", "memory", "engines", "multiply-adds a second")
    note = "'this' is this machine; 'edgeloop profile measure --out FILE' writes a profile of the machine it runs on"
    show_table("profiles", columns, rows, note=note)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="this, a name, or a profile's .json file.")], as_json: AsJson = False
) -> None:
    """Show a profile with the source of each figure."""
    from edgeloop.toolchain.profiles.open import open_profile

    profile = open_profile(name)
    if as_json:
        emit_json(profile)
        return
    storage = "any card or disk" if profile.storage_bytes is None else size(profile.storage_bytes)
    lines = [
        f"{profile.name}: {profile.title}",
        f"memory {size(profile.memory_bytes)}, storage {storage}",
        f"runs {', '.join(profile.engines)} at {', '.join(profile.precisions)}",
        f"accelerated: {', '.join(profile.accelerated) or 'nothing that is known'}",
    ]
    for speed in profile.speeds:
        rate, overhead = _rate(speed.multiply_adds_per_s), f" after {speed.overhead_ms:.3f} ms"
        lines.append(f"{speed.engine} {speed.precision}: {rate} multiply-adds a second{overhead}, one thread")
        lines += [
            f"  {point.network}: {point.multiply_adds / 1e6:,.2f} million multiply-adds in {point.latency_ms:g} ms; "
            f"{point.source}"
            for point in speed.points
        ]
    lines += [f"note: {note}" for note in profile.notes]
    lines += [f"source: {source}" for source in profile.sources]
    for line in lines:
        console.print(line, markup=False, highlight=False)


@app.command()
def measure(
    out: Annotated[Path, typer.Option("--out", help="Where the profile goes: a .json file for --profile elsewhere.")],
    name: Annotated[str, typer.Option(help="What the device is called in reports.")] = "measured",
    as_json: AsJson = False,
) -> None:
    """Time small networks on this machine and write its profile."""
    from edgeloop.toolchain.profiles.measure import measure_profile
    from edgeloop.toolchain.profiles.open import require_profile_path, save_profile

    require_profile_path(out)
    with progress_bar("timing") as progress:
        profile = measure_profile(name=name, progress=progress)
    save_profile(profile, out)
    if as_json:
        emit_json(profile)
        return
    speeds = ", ".join(f"{one.precision} {_rate(one.multiply_adds_per_s)}" for one in profile.speeds)
    console.print(f"{out}: {profile.title}; multiply-adds a second: {speeds}", markup=False, highlight=False)


def _rate(per_s: float) -> str:
    return f"{per_s / 1e9:.2f} billion" if per_s >= 1e9 else f"{per_s / 1e6:.0f} million"
