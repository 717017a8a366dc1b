"""Which accelerators the engines find on this machine, and which of them work.

Whatever goes wrong with one is its `problem`, never an error: it is passed over. Each is tried in a process of its own
(see `trial`), so that a driver that crashes takes nothing else down.
"""

from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.installed import installed_engines
from edgeloop.runtime.engines.litert import DELEGATES
from edgeloop.runtime.engines.port import Setting
from edgeloop.runtime.engines.settings import COMPILED, GPU, INTERPRETER, Found
from edgeloop.runtime.engines.trial import TIMEOUT_S, Trial, What, try_out


def find_accelerators(
    *, delegates: tuple[str, ...] = tuple(DELEGATES), timeout_s: float = TIMEOUT_S
) -> tuple[Found, ...]:
    """Every accelerator of the installed engines, tried with a tiny model; a second or two for each.

    delegates: names in litert.DELEGATES or paths of delegates' libraries; those that are not here are left out. A
    delegate is only started, since most take nothing but models compiled for them: whether one runs on it,
    `trial.try_setting` tells. timeout_s: for each.
    """
    installed = installed_engines()
    found: list[Found] = []
    if EngineName.LITERT in installed:
        found += _litert(delegates, installed[EngineName.LITERT], timeout_s)
    for engine in (EngineName.ONNXRUNTIME, EngineName.OPENVINO):
        if engine in installed:
            found += _listed(engine, timeout_s)
    return tuple(found)


def _litert(delegates: tuple[str, ...], version: str, timeout_s: float) -> list[Found]:
    setting = Setting(interface=COMPILED, accelerator=GPU)
    gpu = try_out(Trial(what=What.PROBE, engine=EngineName.LITERT, setting=setting), timeout_s=timeout_s)
    detail = f"LiteRT {version}"
    found = [
        Found(engine=EngineName.LITERT, accelerator=GPU, interface=COMPILED, detail=detail, problem=gpu.problem),
    ]
    for name in delegates:
        setting = Setting(interface=INTERPRETER, accelerator=name)
        outcome = try_out(Trial(what=What.DELEGATE, engine=EngineName.LITERT, setting=setting), timeout_s=timeout_s)
        if outcome.is_absent:
            continue
        found.append(
            Found(
                engine=EngineName.LITERT,
                accelerator=name,
                interface=INTERPRETER,
                detail=f"LiteRT delegate {DELEGATES.get(name, name)}",
                problem=outcome.problem,
            )
        )
    return found


def _listed(engine: EngineName, timeout_s: float) -> list[Found]:
    listed = try_out(Trial(what=What.LIST, engine=engine), timeout_s=timeout_s)
    if listed.problem:
        return [Found(engine=engine, accelerator="", detail="looking for accelerators", problem=listed.problem)]
    found = []
    for name, detail in listed.found.items():
        trial = Trial(what=What.PROBE, engine=engine, setting=Setting(accelerator=name))
        problem = try_out(trial, timeout_s=timeout_s).problem
        found.append(Found(engine=engine, accelerator=name, detail=detail, problem=problem))
    return found
