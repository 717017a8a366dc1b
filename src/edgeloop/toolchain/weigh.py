"""What a model weighs: its size and arithmetic, its latency and memory here, and how it sits on a device.

Neighbours: `bench` times, `arithmetic` counts, `profiles` knows the devices; `check` sets two models side by side.
"""

from collections.abc import Sequence

import msgspec

from edgeloop.contracts.errors import Refused
from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.toolchain.arithmetic.count import multiply_adds, multiply_adds_by_precision, precision_of
from edgeloop.toolchain.bench import Subject, engine_of, peak_memory_bytes, time_by_turns
from edgeloop.toolchain.convert.keras import export_keras
from edgeloop.toolchain.convert.mcu import to_mcu
from edgeloop.toolchain.profiles.open import THIS
from edgeloop.toolchain.profiles.target import Estimate, TargetProfile, estimate_latency, fits
from edgeloop.toolchain.source.engine import wrap_runnable
from edgeloop.toolchain.source.model import Format, Model


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One model's own figures. None stands for what cannot be told or was not measured: a format that no engine runs
    is not timed, but Keras is, as the float LiteRT file that it becomes. Latency is of one inference, one thread,
    tensors in and out."""

    name: str
    format: str
    size_bytes: int
    multiply_adds: int | None
    precision: Precision | None
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    peak_memory_bytes: int | None = None


class OnDevice(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate on a profile's device. misfits: why it does not fit; none if it does. arena_bytes: of a model for a
    microcontroller, as its interpreter reports it on this 64-bit machine, which is an upper bound for a 32-bit one."""

    profile: str
    title: str
    misfits: tuple[str, ...]
    latency: Estimate
    arena_bytes: int | None = None


def weigh(model: Model) -> Checked:
    """What can be told without running it."""
    return Checked(
        name=model.name,
        format=model.format,
        size_bytes=model.size_bytes,
        multiply_adds=multiply_adds(model),
        precision=precision_of(model),
    )


def measure_all(subjects: Sequence[Subject]) -> tuple[Checked, ...]:
    """Each model with its latency, timed by turns in one clean process, and its peak memory in one of its own."""
    found = [weigh(subject.model) for subject in subjects]
    able = [(index, one) for index, one in enumerate(map(_runnable, subjects)) if one is not None]
    timings = time_by_turns([one for _, one in able]) if able else ()
    for (index, one), timing in zip(able, timings, strict=True):
        found[index] = msgspec.structs.replace(
            found[index],
            latency_p50_ms=timing.latency_p50_ms,
            latency_p99_ms=timing.latency_p99_ms,
            peak_memory_bytes=peak_memory_bytes(one),
        )
    return tuple(found)


def _runnable(subject: Subject) -> Subject | None:
    """What is timed in a model's place: itself, or a Keras model as the float LiteRT file that it becomes."""
    model = subject.model
    if model.format is not Format.KERAS:
        return subject if engine_of(model) is not None else None
    try:
        exported = wrap_runnable(export_keras(model, Format.LITERT), Format.LITERT, name=f"{model.name} as LiteRT")
    except Refused:
        return None  # it is no LiteRT file as it is; the report says that it was not timed
    if len(exported.inputs) > 1:
        return Subject(exported, subject.feeds)
    return Subject(exported, {exported.inputs[0].name: subject.feeds[model.inputs[0].name]})


def on_device(found: Checked, candidate: Model, profile: TargetProfile) -> OnDevice:
    """How a model that was weighed sits on a device."""
    engine = EngineName.LITERT if candidate.format is Format.MCU else engine_of(candidate)
    arena_bytes, refusals = _arena(candidate) if profile.micro else (None, ())
    misfits = fits(
        profile,
        size_bytes=len(candidate.native) if candidate.format is Format.MCU else found.size_bytes,
        precision=found.precision,
        engine=engine,
        peak_memory_bytes=arena_bytes if profile.micro else found.peak_memory_bytes,
    )
    if profile.name == THIS and found.latency_p50_ms is not None:
        latency = Estimate(latency_ms=found.latency_p50_ms, method="measured here, one thread")
    elif engine is None or found.precision is None:
        latency = Estimate(latency_ms=None, method=f"unknown: in which numbers {found.name} computes cannot be told")
    else:
        latency = estimate_latency(profile, multiply_adds_by_precision(candidate), engine=engine)
    return OnDevice(
        profile=profile.name,
        title=profile.title,
        misfits=(*misfits, *refusals),
        latency=latency,
        arena_bytes=arena_bytes,
    )


def _arena(candidate: Model) -> tuple[int | None, tuple[str, ...]]:
    """What tensors take on a microcontroller, and why its interpreter does not run the model."""
    if candidate.format is not Format.LITERT:
        return None, ()
    try:
        return to_mcu(candidate, name=candidate.name)[1], ()
    except Refused as error:
        return None, (str(error),)
