"""Predictions as a runtime gives them, made without one."""

from builders import LABELS
from edgeloop.contracts.output import Task
from edgeloop.contracts.prediction import Prediction, Scored


def answer(
    label: str | None = LABELS[0],
    *,
    score: float = 0.95,
    latency_ms: float = 1.0,
    cached: bool = False,
    task: Task = Task.CLASSIFICATION,
) -> Prediction:
    """One answer of a version."""
    return Prediction(
        label=label,
        score=score,
        margin=0.9,
        top=(Scored(label or "", score),),
        latency_ms=latency_ms,
        bundle="tiny@1.0.0",
        engine="onnxruntime",
        precision="float32",
        cached=cached,
        task=task,
    )
