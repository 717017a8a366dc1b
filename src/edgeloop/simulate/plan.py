"""What is simulated, as data: how many devices, over what links, with what going wrong.

Links are round trip and rates, faults are shares; `link` makes them felt. Source of 3g and lte: WebPageTest's
connectivity profiles (agent/connectivity.ini). wifi, ethernet and sat are round figures of our own.
"""

import re
from typing import Annotated

import msgspec

from edgeloop.contracts.errors import InvalidInput

MOST_DEVICES = 100_000
MOST_MINUTES = 24 * 60.0

Share = Annotated[float, msgspec.Meta(ge=0.0, lt=1.0)]


class Link(msgspec.Struct, frozen=True):
    """A way to the hub. Rates in bits a second; 0 for as fast as it goes."""

    name: str
    round_trip_ms: float
    up_bps: float
    down_bps: float

    def up_s(self, size_bytes: int) -> float:
        """How long so many bytes take to the hub."""
        return self.round_trip_ms / 2000 + (8 * size_bytes / self.up_bps if self.up_bps else 0.0)

    def down_s(self, size_bytes: int) -> float:
        """How long so many bytes take from the hub, once the first is under way."""
        return 8 * size_bytes / self.down_bps if self.down_bps else 0.0


LINKS = {
    link.name: link
    for link in (
        Link("loopback", 0.0, 0.0, 0.0),
        Link("ethernet", 1.0, 100e6, 100e6),
        Link("wifi", 5.0, 20e6, 40e6),
        Link("lte", 70.0, 12e6, 12e6),
        Link("3g", 300.0, 768e3, 1.6e6),
        Link("sat", 600.0, 2e6, 20e6),
    )
}
"""By the name that a person gives."""


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What goes wrong. resets: share of requests whose connection is reset on the way there or back. loss: share of
    packets that are sent again. offline: share of the time that a device is away, for half a minute on average.
    """

    resets: Share = 0.0
    loss: Share = 0.0
    offline: Share = 0.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One simulation.

    nodes: real nodes between devices and cloud, each for its part of the devices; 0: straight on the hub. beat_s: how
    long a device's sync is held open, so how often it is heard of. readings_per_s: of each device. send_every_s: how
    often they are sent. checked: share of the devices that check what they are assigned with TUF, as all real devices
    do; the others ask for the same files and hold the bundle's to its hashes.
    """

    devices: Annotated[int, msgspec.Meta(ge=1, le=MOST_DEVICES)]
    nodes: Annotated[int, msgspec.Meta(ge=0)] = 0
    link: Link = LINKS["loopback"]
    faults: Faults = Faults()
    beat_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 60.0
    readings_per_s: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    send_every_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    checked: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.05
    seed: int = 0


def parse_link(name: str) -> Link:
    """A link by name. Raises InvalidInput."""
    if name not in LINKS:
        raise InvalidInput(f"there is no link {name!r}; known: {', '.join(LINKS)}")
    return LINKS[name]


_FAULT = re.compile(r"(?P<name>[a-z]+)=(?P<percent>[0-9]+(?:\.[0-9]+)?)%")


def parse_faults(text: str) -> Faults:
    """Read "resets=2%,loss=1%,offline=5%"; empty for none. Raises InvalidInput.

    >>> parse_faults("resets=2%,offline=5%")
    Faults(resets=0.02, loss=0.0, offline=0.05)
    """
    shares: dict[str, float] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        found = _FAULT.fullmatch(part)
        if found is None or found["name"] not in Faults.__struct_fields__ or float(found["percent"]) >= 100:
            known = ", ".join(Faults.__struct_fields__)
            raise InvalidInput(f"{part!r} is no fault; write NAME=PERCENT% below 100, with a name of: {known}")
        shares[found["name"]] = float(found["percent"]) / 100
    return Faults(**shares)
