"""Sorting a batch: what its sender may hand over, and what it may not."""

import math
from collections.abc import Callable

from edgeloop.contracts.messages import Event, Reading, Rejected, Sample, SendRequest
from edgeloop.contracts.prediction import Prediction

_MOST_LABEL = 200
_MOST_BUNDLE = 100
_MOST_MEDIA = 64
"""Characters, as the cloud's tables have them."""


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
        elif flaw := _flaw(event):
            rejected.append(Rejected(index=index, reason=flaw))
        else:
            taken.append(event)
    return tuple(taken), tuple(rejected)


def _flaw(event: Event) -> str | None:
    """Why no hub could ever keep this: what one database holds and another does not is turned down everywhere."""
    if isinstance(event.body, Reading):
        made = event.body.prediction
        if not _is_finite(made):
            return "a number of the prediction is not finite"
        return _unkept("label", made.label, _MOST_LABEL) or _unkept("bundle", made.bundle, _MOST_BUNDLE)
    if isinstance(event.body, Sample):
        return _unkept("media type", event.body.media, _MOST_MEDIA) or _unkept("source", event.body.source, None)
    return None


def _is_finite(made: Prediction) -> bool:
    """False for what cannot be told in JSON and would spoil every mean."""
    told = (made.score, made.margin, made.latency_ms, made.energy, made.energy_z, made.novelty)
    return all(one is None or math.isfinite(one) for one in (*told, *(label.score for label in made.top)))


def _unkept(name: str, text: str | None, most: int | None) -> str | None:
    if text is None:
        return None
    if "\0" in text:
        return f"its {name} holds a NUL, which PostgreSQL cannot keep"
    if most is not None and len(text) > most:
        return f"its {name} is {len(text):,} characters long; at most {most} are kept"
    return None
