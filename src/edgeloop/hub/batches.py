"""Sorting a batch: what its sender may hand over, and what it may not."""

from collections.abc import Callable, Sequence
from itertools import starmap

from edgeloop.contracts.finite import are_finite, is_finite
from edgeloop.contracts.messages import Event, Reading, Rejected, Sample, SendReply, SendRequest

_MOST_LABEL = 200
_MOST_BUNDLE = 100
_MOST_MEDIA = 64
"""Characters, as the cloud's tables have them."""


def sort_out(
    request: SendRequest, sender: str, may_speak_for: Callable[[str], bool]
) -> tuple[tuple[Event, ...], tuple[Rejected, ...]]:
    """The events that the sender may hand over, and the others with the reason, by their place in the batch."""
    if _are_all_good(request.events, may_speak_for):
        return request.events, ()
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


def _are_all_good(events: Sequence[Event], may_speak_for: Callable[[str], bool]) -> bool:
    """Whether these are readings without a flaw of those for whom the sender may speak: nearly all batches are, and a
    hub looks through 20,000 readings a second. False: each is to be looked at.
    """
    bodies = [event.body for event in events]
    if any(type(body) is not Reading for body in bodies) or not are_finite(bodies):
        return False
    told = {(body.prediction.label, body.prediction.bundle) for body in bodies if isinstance(body, Reading)}
    return all(map(may_speak_for, {event.device_id for event in events})) and not any(starmap(_flaw_of_names, told))


def answered(
    request: SendRequest,
    taken: Sequence[Event],
    rejected: tuple[Rejected, ...],
    *,
    new: int,
    reused: Sequence[Event] = (),
) -> SendReply:
    """What the sender is told once it is committed. new: of those taken. reused: of those taken, whose identity another
    event has here."""
    others = {id(event) for event in reused}
    more = tuple(
        Rejected(index=index, reason=_reused(event), reused=True)
        for index, event in enumerate(request.events)
        if id(event) in others
    )
    return SendReply(accepted=new, repeated=len(taken) - new - len(more), rejected=(*rejected, *more))


def _reused(event: Event) -> str:
    return (
        f"another event of {event.device_id!r} has the number {event.sequence} of epoch {event.epoch} here: its disk "
        "went back to an earlier state, or there are two of it"
    )


def _flaw(event: Event) -> str | None:
    """Why no hub could ever keep this: what one database holds and another does not is turned down everywhere."""
    if isinstance(event.body, Reading):
        if not is_finite(event.body):
            return "a number of the prediction is not finite"
        return _flaw_of_names(event.body.prediction.label, event.body.prediction.bundle)
    if isinstance(event.body, Sample):
        return _unkept("media type", event.body.media, _MOST_MEDIA) or _unkept("source", event.body.source, None)
    return None


def _flaw_of_names(label: str | None, bundle: str) -> str | None:
    return _unkept("label", label or "", _MOST_LABEL) or _unkept("bundle", bundle, _MOST_BUNDLE)


def _unkept(name: str, text: str, most: int | None) -> str | None:
    if "\0" in text:
        return f"its {name} holds a NUL, which PostgreSQL cannot keep"
    if most is not None and len(text) > most:
        return f"its {name} is {len(text):,} characters long; at most {most} are kept"
    return None
