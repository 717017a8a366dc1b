"""Workers of one process answer at the same time, whatever answers one asker soonest."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from builders import Parts, make_parts, pack
from edgeloop.bundle.archive import digest, entries, open_bundle
from edgeloop.bundle.arrays import to_npy
from edgeloop.contracts.manifest import EngineName, InputSpec, Modality
from edgeloop.contracts.output import Activation, Classification
from edgeloop.runtime.engines.litert import LiteRtEngine
from edgeloop.runtime.engines.port import Setting
from edgeloop.runtime.load import able_here, remember_race
from edgeloop.runtime.outcome import Race, Runner
from edgeloop.runtime.pool import PoolSettings
from edgeloop.serve.config import ServeConfig
from edgeloop.serve.models import Models
from small_litert import dense

pytestmark = pytest.mark.anyio


def _litert_bundle(folder: Path) -> Path:
    """Four numbers to one of four labels, by LiteRT."""
    size = 4
    model = dense(1, size)
    inputs = np.random.default_rng(1).normal(size=(16, size)).astype(np.float32)
    engine = LiteRtEngine(model)
    logits = np.concatenate([engine.run({"x": one[None]})[engine.outputs[0].name] for one in inputs])
    engine.close()
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    golden_in, golden_out = to_npy(inputs), to_npy(scores.astype(np.float32))
    parts = make_parts()
    old = parts.manifest
    tensors = {"x": engine.inputs[0].name, "scores": engine.outputs[0].name}
    changes: dict[str, Any] = {
        "input": InputSpec("x", Modality.TENSOR, (1, size), "NC", (-10.0, 10.0)),
        "preprocess": (),
        "output": Classification(scores="scores", activation=Activation.SOFTMAX),
        "labels": ("a", "b", "c", "d"),
        "variants": (
            msgspec.structs.replace(
                old.variants[0],
                file=digest(model),
                engine=EngineName.LITERT,
                size_bytes=len(model),
                tensors=tensors,
                measured=None,
            ),
        ),
        "golden": msgspec.structs.replace(
            old.golden, inputs=digest(golden_in), outputs=digest(golden_out), count=len(inputs)
        ),
        "reference": None,
        "files": entries((model, golden_in, golden_out)),
    }
    files = {digest(data): data for data in (model, golden_in, golden_out)}
    return pack(Parts(msgspec.structs.replace(old, **changes), files), folder)


@pytest.mark.parametrize(
    ("workers", "threads", "expected"),
    [
        (1, 1, Setting(interface="compiled")),
        (2, 1, Setting(interface="interpreter")),
        (2, 2, Setting(interface="interpreter")),
    ],
)
async def test_what_takes_turns_is_no_worker_of_several(
    tmp_path: Path, workers: int, threads: int, expected: Setting
) -> None:
    path = _litert_bundle(tmp_path)
    bundle = open_bundle(path)
    able = able_here(bundle, EngineName.LITERT)
    winner = Runner(
        variant=able[0].file,
        engine=EngineName.LITERT,
        precision=able[0].precision,
        setting=Setting(threads=threads, interface="compiled"),
        latency_ms=0.1,
        rounds=10,
    )
    remember_race(bundle, able, Race(runners=(winner,), seconds=0.1))
    config = ServeConfig(bundles=(path,), engine="litert", race_s=0.05, pool=PoolSettings(workers=workers))
    models = Models(config)
    await models.open()
    try:
        assert models.by_name["tiny"].pool.servable.setting == expected
    finally:
        await models.close()
