"""How engines can be told to run a model, and which of these ways are worth racing."""

from enum import StrEnum

import msgspec

from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.port import Setting

DEFAULT = Setting()
"""One thread of the CPU, through the engine's first interface."""

INTERPRETER = "interpreter"
COMPILED = "compiled"
INTERFACES: dict[EngineName, tuple[str, ...]] = {
    EngineName.LITERT: (INTERPRETER, COMPILED),
    EngineName.ONNXRUNTIME: (),
    EngineName.OPENVINO: (),
}
"""What Setting.interface may name, the first being the default; nothing for engines with one interface."""

GPU = "gpu"
"""The accelerator that LiteRT reaches through its interface COMPILED, and only so."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An accelerator that an engine could use here.

    accelerator, interface: as in Setting. detail: what it is, for people. problem: why it cannot be used here; empty
    when a trial on it went well.
    """

    engine: EngineName
    accelerator: str
    interface: str = ""
    detail: str = ""
    problem: str = ""


class Aim(StrEnum):
    """What an engine is to be good for."""

    SOONEST = "soonest"
    """One asker is answered as soon as may be."""
    SMALL = "small"
    """The process stays small: without further interfaces, each of which keeps its library in memory for good once it
    was tried. LiteRT's compiled model takes 8 MB and was within 3 % of the interpreter on every model tried.
    """
    SIDE_BY_SIDE = "side by side"
    """Several answer at the same time: of the CPU's, without those that take turns (`is_parallel`)."""


def settings_for(
    name: EngineName,
    *,
    cores: int,
    threads: int | None = None,
    found: tuple[Found, ...] = (),
    aim: Aim = Aim.SOONEST,
) -> tuple[Setting, ...]:
    """What is worth racing on an engine: each interface with 1, 2, 4, ... and all cores, then the accelerators.

    cores: those that this process may use; physical ones, since two threads on one core only share it. threads: so
    many and no other number, more than there are cores, too; an accelerator counts as one. found: what
    `find_accelerators` answered; those with a problem and those of other engines are passed over. aim: see there
    what is left out.
    """
    on_cpu = [
        setting
        for interface in (INTERFACES[name] or ("",))[: 1 if aim is Aim.SMALL else None]
        for count in (thread_counts(cores) if threads is None else (threads,))
        if is_parallel(name, setting := Setting(threads=count, interface=interface)) or aim is not Aim.SIDE_BY_SIDE
    ]
    beyond = [
        Setting(interface=one.interface, accelerator=one.accelerator)
        for one in found
        if one.engine is name and not one.problem and threads in (None, DEFAULT.threads)
    ]
    return (*on_cpu, *beyond)


def is_parallel(name: EngineName, setting: Setting) -> bool:
    """Whether engines so set, each on a thread of its own, run at the same time.

    False where the library keeps Python's global lock while it runs, and every other thread waits for that long:
    LiteRT's compiled model does (ai-edge-litert 2.3).
    """
    return not (name is EngineName.LITERT and (setting.interface == COMPILED or setting.accelerator == GPU))


def thread_counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4, ... below `cores`, and `cores`; (1,) for none."""
    counts = []
    threads = 1
    while threads < cores:
        counts.append(threads)
        threads *= 2
    return (*counts, max(cores, 1))
