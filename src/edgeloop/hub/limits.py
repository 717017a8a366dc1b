"""How much one sender may ask for: so many requests and bytes a second, so many at once, so many failures an address.

Token buckets: an idle sender saves up to `burst`, which then refills at its rate. A failure is whatever was turned
down before anybody had proven who sent it; only these count for an address, so that ten thousand devices behind one
router are no attack. A device that has proven itself from an address is let through while others there are held up;
what its name gets wrong from there is counted, too. What is remembered is bounded: whoever was seen longest ago is
forgotten first. One a process, used from one event loop; replicas count each for itself.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from types import TracebackType

from edgeloop.contracts.errors import InvalidInput, Unavailable
from edgeloop.contracts.messages import MAX_BODY_BYTES


@dataclass(frozen=True)
class Limits:
    """Of one device or node, but for failures, which are of one address. Bytes as they come in, before expansion.

    unproven_bytes: of bodies that are held before anybody knows who sent them, and of those from one address; see
    hub.bodies. Of such a body at least body_least_bytes, or its end, must come in each body_window_s. entries: requests
    with one API token that stand in the log.
    """

    requests_hz: float = 100.0
    requests_burst: int = 1000
    bytes_hz: float = 8 * 1024 * 1024
    bytes_burst: int = 128 * 1024 * 1024
    most_at_once: int = 64
    failures_hz: float = 1.0
    failures_burst: int = 100
    unproven_bytes: int = 8 * MAX_BODY_BYTES
    unproven_bytes_an_address: int = 4 * MAX_BODY_BYTES
    body_window_s: float = 30.0
    body_least_bytes: int = 6_000
    entries_hz: float = 10.0
    entries_burst: int = 1000
    most_remembered: int = 50_000


def limits_of(requests_hz: float, bytes_hz: float) -> Limits:
    """Limits from the two rates that people set; ten seconds' worth of requests and sixteen of bytes may be saved up,
    and never less than one full request.
    """
    if requests_hz <= 0 or bytes_hz <= 0:
        raise InvalidInput(f"{requests_hz:g} requests and {bytes_hz:g} bytes a second let nobody in; give more than 0")
    return Limits(
        requests_hz=requests_hz,
        requests_burst=max(10, round(10 * requests_hz)),
        bytes_hz=bytes_hz,
        bytes_burst=max(MAX_BODY_BYTES, round(16 * bytes_hz)),
    )


class TooMany(Unavailable):
    """Too much was asked for; there is room again in retry_after_s seconds."""

    http_status = 429

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Buckets:
    """One bucket for each key, made full when it is first asked for.

    >>> buckets = Buckets(hz=1.0, burst=2, clock=lambda: 0.0)
    >>> [buckets.take("a") for _ in range(3)], buckets.take("b")
    ([0.0, 0.0, 1.0], 0.0)
    """

    def __init__(
        self, *, hz: float, burst: float, most: int = 50_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hz = hz
        self._burst = burst
        self._most = most
        self._clock = clock
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._levels)

    def wait_s(self, key: Hashable, amount: float = 1.0) -> float:
        """Seconds until so much could be taken; 0.0 when it could be now. More than the burst counts as the burst."""
        lacks = min(amount, self._burst) - self._level(key)
        return max(0.0, lacks / self._hz)

    def take(self, key: Hashable, amount: float = 1.0) -> float:
        """Take it if there is room; returns 0.0, or else the seconds until there is."""
        wait_s = self.wait_s(key, amount)
        if wait_s > 0:
            return wait_s
        self._levels[key] = (self._level(key) - amount, self._clock())
        self._levels.move_to_end(key)
        if len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return 0.0

    def _level(self, key: Hashable) -> float:
        if key not in self._levels:
            return self._burst
        level, at_s = self._levels[key]
        return min(self._burst, level + (self._clock() - at_s) * self._hz)


class Failures:
    """What addresses may get wrong before anybody knows who they are."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        most = limits.most_remembered
        self._addresses = Buckets(hz=limits.failures_hz, burst=limits.failures_burst, most=most, clock=clock)
        self._claims = Buckets(hz=limits.failures_hz, burst=limits.failures_burst, most=most, clock=clock)
        self._most = most
        self._proven: OrderedDict[tuple[str, str], None] = OrderedDict()

    def check(self, address: str, claimed: str = "") -> None:
        """Raise TooMany if the address got too much wrong, unless `claimed` proved itself from there before and has not
        got as much wrong itself.
        """
        wait_s = self._addresses.wait_s(address)
        if wait_s > 0 and self.is_known(address, claimed):
            wait_s = self._claims.wait_s((address, claimed))
        if wait_s > 0:
            raise TooMany(
                f"too many requests from {address} were turned down; the next one is looked at in {wait_s:.0f} s",
                wait_s,
            )

    def is_known(self, address: str, claimed: str) -> bool:
        """Whether who this claims to be proved itself from there before."""
        return (address, claimed) in self._proven

    def note_failure(self, address: str, claimed: str = "") -> None:
        """Something from there, in that name, was turned down."""
        self._addresses.take(address)
        if self.is_known(address, claimed):
            self._claims.take((address, claimed))

    def note_proven(self, address: str, who: str) -> None:
        """Somebody from there is who they say."""
        self._proven[address, who] = None
        self._proven.move_to_end((address, who))
        if len(self._proven) > self._most:
            self._proven.popitem(last=False)


class Shares:
    """What each device may ask for once it has proven itself."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        most = limits.most_remembered
        self._limits = limits
        self._requests = Buckets(hz=limits.requests_hz, burst=limits.requests_burst, most=most, clock=clock)
        self._bytes = Buckets(hz=limits.bytes_hz, burst=limits.bytes_burst, most=most, clock=clock)
        self._at_once: Counter[str] = Counter()

    def taking(self, device_id: str, size_bytes: int) -> "Share":
        """Room for one request while it is answered, as a context. Raises TooMany as it is entered."""
        return Share(self, device_id, size_bytes)

    def take(self, device_id: str, size_bytes: int) -> None:
        """One request more is open, until `give_back`. Raises TooMany."""
        if self._at_once[device_id] >= self._limits.most_at_once:
            raise TooMany(f"{device_id!r} has {self._limits.most_at_once} requests open already; end some first", 1.0)
        wait_s = self._requests.take(device_id) or self._bytes.take(device_id, size_bytes)
        if wait_s > 0:
            raise TooMany(
                f"{device_id!r} asks for more than {self._limits.requests_hz:g} requests or "
                f"{self._limits.bytes_hz:,.0f} bytes a second; there is room again in {math.ceil(wait_s)} s",
                wait_s,
            )
        self._at_once[device_id] += 1

    def give_back(self, device_id: str) -> None:
        """One request is answered."""
        self._at_once[device_id] -= 1
        if not self._at_once[device_id]:
            del self._at_once[device_id]


class Share:
    """A context: see `Shares.taking`. Small, since ten thousand requests are held at once."""

    __slots__ = ("_device_id", "_shares", "_size_bytes")

    def __init__(self, shares: Shares, device_id: str, size_bytes: int) -> None:
        self._shares = shares
        self._device_id = device_id
        self._size_bytes = size_bytes

    def __enter__(self) -> None:
        """It is taken."""
        self._shares.take(self._device_id, self._size_bytes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It is given back."""
        self._shares.give_back(self._device_id)
