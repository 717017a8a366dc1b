"""Sorting a batch: what its sender may hand over, and what it may not."""

from collections.abc import Callable

from edgeloop.contracts.messages import Event, Rejected, SendRequest


def sort_out(
    request: SendRequest, sender: str, may_speak_for: Callable[[str], bool]
) -> tuple[tuple[Event, ...], tuple[Rejected, ...]]:
    """The events that the sender may hand over, and the others with the reason, by their place in the batch."""
    taken: list[Event] = []
    rejected: list[Rejected] = []
    for index, event in enumerate(request.events):
        if may_speak_for(event.device_id):
            taken.append(event)
        else:
            reason = f"{sender!r} does not carry for {event.device_id!r}"
            rejected.append(Rejected(index=index, reason=reason))
    return tuple(taken), tuple(rejected)
