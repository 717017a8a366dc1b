"""Who sent a request: the other end of `transport.identity`.

Rules kept here: a signature covers method, path, query and body; it is good for five minutes; its nonce is good
once; and signatures from before the second in which the memory of nonces begins are turned down, since nobody knows
which nonces they used. Profile and source: contracts.proof.
"""

import hmac
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edgeloop.contracts.errors import InvalidInput, Refused
from edgeloop.contracts.join import enrol_statement, fresh_statement
from edgeloop.contracts.messages import EnrolRequest
from edgeloop.contracts.proof import MAX_AGE_S, Claim, content_digest, parse_claim, signature_base
from edgeloop.hub.limits import TooMany


class StaleSignature(Refused):
    """A signature of another time; the answer tells the device what time it is here."""

    def __init__(self, message: str, server_time_s: float) -> None:
        super().__init__(message)
        self.server_time_s = server_time_s


def check_possession(request: EnrolRequest, *, now_s: float) -> None:
    """Raise Refused unless the key that is enrolled signed for this id and token itself, StaleSignature if what it
    signed with its time is of another one.
    """
    named = (request.device_id, request.join_secret, request.public_key)
    try:
        key = Ed25519PublicKey.from_public_bytes(request.public_key)
        key.verify(request.possession, enrol_statement(*named))
        if request.fresh:
            key.verify(request.fresh, fresh_statement(*named, request.made_at_ms))
    except InvalidSignature as error:
        raise Refused(
            f"the enrolment of {request.device_id!r} is not signed by the key that it brings; only the device "
            "itself can enrol its key"
        ) from error
    except ValueError as error:
        raise InvalidInput(f"the public key is {len(request.public_key)} bytes; Ed25519 keys have 32") from error
    if request.fresh and abs(now_s - request.made_at_ms / 1000) > MAX_AGE_S:
        raise StaleSignature(
            f"the enrolment of {request.device_id!r} is from {request.made_at_ms / 1000:.0f} s, here it is {now_s:.0f} "
            f"s (since 1970 UTC); at most {MAX_AGE_S} s apart are taken. Set the device's clock.",
            now_s,
        )


class SignedRequest(msgspec.Struct, frozen=True):
    """What of a request is signed. path and query percent-encoded, as received."""

    method: str
    path: str
    query: str
    body: bytes
    digest: str | None
    claim: Claim


def read_claim(headers: Callable[[str], str | None]) -> Claim:
    """What a request claims. Raises Refused if the proof's headers are missing."""
    return parse_claim(headers("signature-input"), headers("signature"))


class Nonces(Protocol):
    """Which nonces were used: in this process, or by all replicas of a cloud."""

    def oldest_s(self) -> float:
        """Since when, in seconds since 1970, every used nonce is known."""
        ...

    async def use(self, device_id: str, nonce: str, *, until_s: float) -> bool:
        """Note a nonce and keep it until then; False if it was used before. Raises Unavailable if nobody can say."""
        ...


class OwnNonces:
    """Nonces of one process, in memory; used from one event loop.

    most: that are remembered in all. When there are so many, whoever has more than `few` of them waits, and the others
    go on: no device can take the memory from the rest.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time, most: int = 500_000, few: int = 1000) -> None:
        self._clock = clock
        self._most = most
        self._few = few
        self._of: Counter[str] = Counter()
        self._oldest_s = int(clock())
        self._until_s: OrderedDict[tuple[str, str], float] = OrderedDict()

    def oldest_s(self) -> float:
        """See Nonces.oldest_s: since this process started."""
        return self._oldest_s

    async def use(self, device_id: str, nonce: str, *, until_s: float) -> bool:
        """See Nonces.use. Raises TooMany where there is no room for more of this device."""
        self._forget(self._clock())
        key = (device_id, nonce)
        if key in self._until_s:
            return False
        if len(self._until_s) >= self._most and self._of[device_id] >= self._few:
            raise TooMany(
                f"{device_id!r} sent {self._of[device_id]:,} requests in the last ten minutes, and there is no room to "
                "remember more; send fewer",
                60.0,
            )
        self._until_s[key] = until_s
        self._of[device_id] += 1
        return True

    def _forget(self, now_s: float) -> None:
        while self._until_s and next(iter(self._until_s.values())) < now_s:
            (device_id, _), _ = self._until_s.popitem(last=False)
            self._of[device_id] -= 1
            if not self._of[device_id]:
                del self._of[device_id]


class ProofChecker:
    """Checks signatures, and that each is used once. nonces: those of this process, unless replicas share them."""

    def __init__(self, *, clock: Callable[[], float] = time.time, nonces: Nonces | None = None) -> None:
        self._clock = clock
        self._nonces = nonces or OwnNonces(clock=clock)

    def check_possession(self, request: EnrolRequest) -> None:
        """`check_possession`, by this checker's clock."""
        check_possession(request, now_s=self._clock())

    async def check(self, request: SignedRequest, public_key: bytes | None) -> str:
        """The device that sent this, and sends it once. Raises Refused if anything does not hold, Unavailable if that
        cannot be said.
        """
        device_id = self.check_sender(request, public_key)
        await self.use_nonce(request.claim)
        return device_id

    def check_sender(self, request: SignedRequest, public_key: bytes | None) -> str:
        """The device that signed this, now or a moment ago; perhaps not for the first time. Raises Refused."""
        claim = request.claim
        if public_key is None:
            raise Refused(
                f"device {claim.device_id!r} is not enrolled here; enrol it with a join token ('edgeloop fleet token')"
            )
        self._check_signature(request, public_key)
        self.check_time(claim)
        return claim.device_id

    def _check_signature(self, request: SignedRequest, public_key: bytes) -> None:
        digest = content_digest(request.body)
        if request.digest is None or not hmac.compare_digest(digest.encode(), request.digest.encode()):
            raise Refused("the body does not match its Content-Digest; it was changed on the way")
        base = signature_base(
            method=request.method, path=request.path, query=request.query, digest=digest, params=request.claim.params
        )
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(request.claim.signature, base)
        except InvalidSignature as error:
            raise Refused(
                f"the signature is not by the key that {request.claim.device_id!r} enrolled with; "
                "if its key was lost, enrol it under a new id"
            ) from error
        except ValueError as error:
            raise InvalidInput(f"the public key is {len(public_key)} bytes; Ed25519 keys have 32") from error

    def check_time(self, claim: Claim) -> None:
        """Raise StaleSignature if it claims to be of another time; what it claims is not proven by that."""
        now_s = self._clock()
        if abs(now_s - claim.created_s) > MAX_AGE_S:
            raise StaleSignature(
                f"the signature is from {claim.created_s} s, here it is {now_s:.0f} s (since 1970 UTC); "
                f"at most {MAX_AGE_S} s apart are taken. Set the device's clock.",
                now_s,
            )
        if claim.created_s < self._nonces.oldest_s():
            raise StaleSignature("the signature is from before this server started; sign again", now_s)

    async def use_nonce(self, claim: Claim) -> None:
        """Raise Refused if a request of this device with this nonce was answered before."""
        # Kept past the signature's own life, which may have begun up to MAX_AGE_S in the future.
        until_s = self._clock() + 2 * MAX_AGE_S + 1
        if not await self._nonces.use(claim.device_id, claim.nonce, until_s=until_s):
            raise Refused("this request was answered before: its nonce is used. Sign each request anew.")
