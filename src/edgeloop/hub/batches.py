"""Sorting a batch: what its sender may hand over, and what it may not."""

import math
from collections.abc import Callable

from edgeloop.contracts.messages import Event, Reading, Rejected, SendRequest


def sort_out(
    request: SendRequest, sender: str, may_speak_for: Callable[[str], bool]
) -> tuple[tuple[Event, ...], tuple[Rejected, ...]]:
    """The events that the sender may hand over, and the others with the reason, by their place in the batch."""
    taken: list[Event] = []
    rejected: list[Rejected] = []
    for index, event in enumerate(request.events):
        if not may_speak_for(event.device_id):
            reason = f"{sender!r} does not carry for {event.device_id!r}"
            rejected.append(Rejected(index=index, reason=reason))
        elif not _is_finite(event):
            rejected.append(Rejected(index=index, reason="a number of the prediction is not finite"))
        else:
            taken.append(event)
    return tuple(taken), tuple(rejected)


def _is_finite(event: Event) -> bool:
    """False for what cannot be told in JSON and would spoil every mean."""
    if not isinstance(event.body, Reading):
        return True
    made = event.body.prediction
    told = (made.score, made.margin, made.latency_ms, made.energy, made.energy_z, made.novelty)
    return all(one is None or math.isfinite(one) for one in (*told, *(label.score for label in made.top)))
