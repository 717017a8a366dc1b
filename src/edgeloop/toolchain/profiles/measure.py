"""The profile of the machine that runs this: what it has, and how fast it multiplies, timed with `probe`'s nets."""

import platform

import numpy as np

from edgeloop.contracts.errors import Unavailable
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.runtime.profile import describe, this_machine
from edgeloop.toolchain.arithmetic.count import multiply_adds
from edgeloop.toolchain.bench import Subject, time_by_turns
from edgeloop.toolchain.profiles.probe import PROBES, Probe, probe_model
from edgeloop.toolchain.profiles.target import Point, Speed, TargetProfile, speed_from
from edgeloop.toolchain.progress import Progress, silent
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Format

TIMED_PRECISIONS = (Precision.FLOAT32, Precision.INT8)
"""What LiteRT is timed at."""

_INPUTS = 4


def this_profile(*, name: str = "this", speeds: tuple[Speed, ...] = ()) -> TargetProfile:
    """This machine without its speed, which only timing tells."""
    machine = this_machine()
    return TargetProfile(
        name=name,
        title=f"{platform.node()} ({describe(machine)})",
        memory_bytes=machine.memory_bytes,
        storage_bytes=None,
        engines=tuple(sorted(machine.engines)),
        precisions=tuple(Precision),
        speeds=speeds,
        sources=(f"the device itself: {machine.system}",),
    )


def measure_profile(*, name: str = "this", progress: Progress = silent) -> TargetProfile:
    """This machine with the speed of LiteRT at float32 and int8, one thread; takes about half a minute at most.

    Raises Unavailable if LiteRT is not installed.
    """
    if EngineName.LITERT not in this_machine().engines:
        raise Unavailable("LiteRT is not installed here, so nothing can be timed; pip install ai-edge-litert")
    speeds = []
    for index, precision in enumerate(TIMED_PRECISIONS):
        progress(index / len(TIMED_PRECISIONS), f"timing LiteRT {precision}")
        speeds.append(
            speed_from(
                time_probes(PROBES, precision),
                engine=EngineName.LITERT,
                precision=precision,
                measured=True,
                with_overhead=True,
            )
        )
    progress(1.0, "timed")
    return this_profile(name=name, speeds=tuple(speeds))


def time_probes(probes: tuple[Probe, ...], precision: Precision, *, runs: int = 300) -> tuple[Point, ...]:
    """Each net's multiply-adds and median latency on this machine, by turns in one clean process."""
    models = [
        wrap_runnable(probe_model(probe, precision), Format.LITERT, name=f"{probe.name} {precision}")
        for probe in probes
    ]
    random = np.random.default_rng(0)
    subjects = [
        Subject(model, {spec.name: random.random((_INPUTS, *spec.shape[1:]), np.float32) for spec in model.inputs})
        for model in models
    ]
    timings = time_by_turns(subjects, runs=runs)
    return tuple(
        Point(
            network=probe.name,
            multiply_adds=float(multiply_adds(model) or 0),
            latency_ms=timing.latency_p50_ms,
            source=f"median of {timing.runs} runs on the device",
        )
        for probe, model, timing in zip(probes, models, timings, strict=True)
    )
