"""The engines, loaded: the adapter for a name, what it can reach, and whether it computes right here."""

import numpy as np

from edgeloop.contracts.errors import EdgeloopError, InvalidInput
from edgeloop.contracts.manifest import EngineName
from edgeloop.runtime.engines.installed import PACKAGES
from edgeloop.runtime.engines.litert import LiteRtEngine
from edgeloop.runtime.engines.litert_compiled import LiteRtCompiledEngine
from edgeloop.runtime.engines.onnx import OnnxEngine, list_providers
from edgeloop.runtime.engines.openvino import OpenVinoEngine, list_devices
from edgeloop.runtime.engines.port import CPU, MOST_THREADS, Engine, Setting
from edgeloop.runtime.engines.probe import probe_model
from edgeloop.runtime.engines.settings import COMPILED, DEFAULT, GPU, INTERFACES, INTERPRETER


def load_engine(name: EngineName, model: bytes, *, setting: Setting = DEFAULT, batch: int = 1) -> Engine:
    """Load model bytes on the named engine.

    batch: over 1, the inputs' leading axis becomes that. Raises Unavailable if the engine is not installed or the
    setting's accelerator is not there or would leave all to the CPU; InvalidInput if the bytes are not a model for the
    engine, if it cannot take that batch, or if the setting is none of its.
    """
    if setting.threads < 1 or batch < 1:
        raise InvalidInput(f"threads and batch are at least 1, got {setting.threads} and {batch}")
    if setting.threads > MOST_THREADS:
        raise InvalidInput(f"threads are at most {MOST_THREADS:,}, got {setting.threads:,}")
    interfaces = INTERFACES[name]
    if setting.interface and setting.interface not in interfaces:
        raise InvalidInput(f"{name} has no interface {setting.interface!r}; it has {', '.join(interfaces) or 'one'}")
    if name is EngineName.LITERT:
        return _load_litert(model, setting, batch)
    if name is EngineName.OPENVINO:
        return OpenVinoEngine(model, setting=setting, batch=batch)
    return OnnxEngine(model, setting=setting, batch=batch)


def _load_litert(model: bytes, setting: Setting, batch: int) -> Engine:
    interface = setting.interface or (COMPILED if setting.accelerator == GPU else INTERPRETER)
    if setting.accelerator != CPU and (setting.accelerator == GPU) != (interface == COMPILED):
        raise InvalidInput(
            f"LiteRT reaches {setting.accelerator!r} through its interface "
            f"{COMPILED if setting.accelerator == GPU else INTERPRETER!r}, not through {interface!r}"
        )
    if interface == COMPILED:
        return LiteRtCompiledEngine(model, setting=setting, batch=batch)
    return LiteRtEngine(model, setting=setting, batch=batch)


def list_accelerators(name: EngineName) -> dict[str, str]:
    """What an engine itself lists beside the CPU, each with a detail for people; whether one works it does not say.

    It loads the engine's drivers into this process, which may crash it: `find_accelerators` asks in a child.
    """
    if name is EngineName.ONNXRUNTIME:
        return list_providers()
    if name is EngineName.OPENVINO:
        return list_devices()
    return {GPU: "LiteRT's GPU accelerator"}


def probe_engine(name: EngineName, *, setting: Setting = DEFAULT) -> str | None:
    """Run a tiny model on an engine. None when it answers right, else what went wrong."""
    try:
        engine = load_engine(name, probe_model(name), setting=setting)
        feed = np.array([[1.0, 2.0]], dtype=np.float32)
        (answer,) = engine.run({engine.inputs[0].name: feed}).values()
        engine.close()
    except EdgeloopError as error:
        return str(error)
    if answer.tolist() != [[2.0, 4.0]]:
        return f"computes wrong: twice [1, 2] came out as {answer.tolist()}; reinstall {PACKAGES[name]}"
    return None
