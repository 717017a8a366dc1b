"""The REST API's client: for the command line, workers and anyone's own tools.

Blocking, since its users do one thing after another. Neighbours: `contracts.api` has the types, `cloud.api` the
server.
"""

import os
import ssl
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from edgeloop.contracts.access import AccessEntry, AccessRequest, AccessToken, AccessView
from edgeloop.contracts.api import (
    AbortRequest,
    BundleView,
    DeviceView,
    DriftRow,
    EventCount,
    JobClaim,
    JobRequest,
    JobUpdate,
    JobView,
    JoinToken,
    JoinTokenRequest,
    JoinTokenView,
    KeyChange,
    KeysView,
    LabelRequest,
    OnlineKey,
    OnlineKeyRequest,
    PublishRequest,
    ReadingView,
    RolloutRequest,
    RolloutView,
    SampleView,
    Status,
)
from edgeloop.contracts.codec import from_json, to_json
from edgeloop.contracts.errors import InvalidInput, NotFound
from edgeloop.contracts.names import is_loopback
from edgeloop.transport.replies import raise_for_reply, unreachable

T = TypeVar("T")

_TIMEOUT_S = 30.0


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """How a person reaches a cloud: its address, a token, and where the targets key lies, if it is at hand.

    ca: a PEM file with the authority of the cloud's certificate; ca_pem: that authority itself, so that the operator
    file is all that a person is given.
    """

    url: str
    token: str
    targets_key: str | None = None
    ca: str | None = None
    ca_pem: str | None = None


def read_operator(path: str | os.PathLike[str]) -> Operator:
    """Read an operator file. Raises NotFound or InvalidInput."""
    source = Path(path)
    if not source.is_file():
        raise NotFound(
            f"no operator file at {source}; 'edgeloop cloud init' writes one. Name it with --operator or "
            "the variable EDGELOOP_OPERATOR."
        )
    return from_json(source.read_bytes(), Operator, what=str(source))


class CloudApi:
    """A signed-in client. Close it, or use it in `with`."""

    def __init__(self, operator: Operator, *, client: httpx.Client | None = None) -> None:
        self._url = operator.url
        self._client = client or _client(operator)

    def __enter__(self) -> "CloudApi":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    def status(self) -> Status:
        """The cloud in a line."""
        return self._get("status", Status)

    def make_join_token(self, request: JoinTokenRequest) -> JoinToken:
        """A token that admits devices."""
        return self._send("POST", "join-tokens", request, JoinToken)

    def join_tokens(self) -> list[JoinTokenView]:
        """All join tokens, without their secrets, newest first."""
        return self._get("join-tokens", list[JoinTokenView])

    def revoke_join_token(self, token_id: str) -> JoinTokenView:
        """Let nobody else in with a token."""
        return self._send("POST", f"join-tokens/{_part(token_id)}/revoke", None, JoinTokenView)

    def revoke_device(self, device_id: str) -> DeviceView:
        """Take nothing from a device from now on."""
        return self._send("POST", f"devices/{_part(device_id)}/revoke", None, DeviceView)

    def allow_device(self, device_id: str) -> DeviceView:
        """Let a revoked device enrol again, with a join token."""
        return self._send("POST", f"devices/{_part(device_id)}/allow", None, DeviceView)

    def access(self) -> list[AccessView]:
        """Who has a token, by name."""
        return self._get("access", list[AccessView])

    def add_access(self, request: AccessRequest) -> AccessToken:
        """A token for somebody."""
        return self._send("POST", "access", request, AccessToken)

    def revoke_access(self, name: str) -> None:
        """Take somebody's token back."""
        self._bytes("DELETE", f"access/{_part(name)}")

    def access_log(self, *, before: int | None = None, limit: int = 100) -> list[AccessEntry]:
        """What was done, newest first, or before an entry."""
        params = {"limit": limit} if before is None else {"limit": limit, "before": before}
        return self._get("access/log", list[AccessEntry], params)

    def devices(self) -> list[DeviceView]:
        """All devices and nodes, by id."""
        return self._get("devices", list[DeviceView])

    def bundles(self) -> list[BundleView]:
        """All published bundles, oldest first."""
        return self._get("bundles", list[BundleView])

    def signed_targets(self) -> bytes:
        """The newest targets metadata."""
        return self._bytes("GET", "targets")

    def missing_files(self, sha256s: list[str]) -> list[str]:
        """Those of these files that the cloud still lacks."""
        return self._send("POST", "files/missing", sha256s, list[str])

    def put_file(self, sha256: str, data: bytes) -> None:
        """Hand over a bundle's file."""
        self._bytes("PUT", f"files/{sha256}", data)

    def publish(self, request: PublishRequest) -> BundleView:
        """List a bundle whose files are there already."""
        return self._send("POST", "bundles", request, BundleView)

    def keys(self) -> KeysView:
        """Who signs what, until when."""
        return self._get("keys", KeysView)

    def change_keys(self, change: KeyChange) -> KeysView:
        """Bring in roots and targets that were signed elsewhere."""
        return self._send("POST", "keys", change, KeysView)

    def make_online_key(self, repository: Literal["images", "director"]) -> OnlineKey:
        """Let the server make a key of its own; it counts once a root names it."""
        return self._send("POST", "keys/online", OnlineKeyRequest(repository=repository), OnlineKey)

    def start_rollout(self, request: RolloutRequest) -> RolloutView:
        """Bring a bundle to a group."""
        return self._send("POST", "rollouts", request, RolloutView)

    def rollouts(self) -> list[RolloutView]:
        """All rollouts, oldest first."""
        found: list[RolloutView] = []
        while page := self._get("rollouts", list[RolloutView], {"after": found[-1].rollout_id} if found else None):
            found += page
        return found

    def rollout(self, rollout_id: str) -> RolloutView:
        """One rollout."""
        return self._get(f"rollouts/{rollout_id}", RolloutView)

    def abort_rollout(self, rollout_id: str, reason: str, *, keep: bool = False) -> RolloutView:
        """Stop a rollout; devices that have not confirmed go back to what they had, unless told to keep it."""
        return self._send("POST", f"rollouts/{rollout_id}/abort", AbortRequest(reason=reason, keep=keep), RolloutView)

    def pause_rollout(self, rollout_id: str) -> RolloutView:
        """Begin nothing more of a rollout; devices that have begun go on."""
        return self._done(f"rollouts/{rollout_id}/pause", RolloutView)

    def resume_rollout(self, rollout_id: str) -> RolloutView:
        """Go on with a paused rollout."""
        return self._done(f"rollouts/{rollout_id}/resume", RolloutView)

    def samples(
        self, *, device_id: str | None = None, labelled: bool | None = None, limit: int = 1000
    ) -> list[SampleView]:
        """Samples, newest first."""
        params: dict[str, Any] = {"limit": limit}
        if device_id is not None:
            params["device_id"] = device_id
        if labelled is not None:
            params["labelled"] = labelled
        return self._get("samples", list[SampleView], params)

    def sample_data(self, sample_id: str) -> bytes:
        """A sample's own bytes."""
        return self._bytes("GET", f"samples/{sample_id}/data")

    def label(self, sample_id: str, request: LabelRequest) -> SampleView:
        """Say what a sample shows; saying it again corrects it."""
        return self._send("PUT", f"samples/{sample_id}/label", request, SampleView)

    def drift(self, bundle: str, *, last: int = 200) -> list[DriftRow]:
        """Which devices' input has drifted, by their last readings under a bundle."""
        return self._get("analysis/drift", list[DriftRow], {"bundle": bundle, "last": last})

    def event_counts(self) -> list[EventCount]:
        """What the cloud holds, by device and epoch."""
        found: list[EventCount] = []
        while page := self._get("events/counts", list[EventCount], {"after": found[-1].device_id} if found else None):
            found += page
        return found

    def readings(self, device_id: str, *, after: int = 0, limit: int = 1000) -> list[ReadingView]:
        """A device's readings in the order that it made them, after a row number."""
        return self._get(f"devices/{device_id}/readings", list[ReadingView], {"after": after, "limit": limit})

    def submit_job(self, request: JobRequest) -> JobView:
        """Ask for work by a worker."""
        return self._send("POST", "jobs", request, JobView)

    def jobs(self, *, bundle: str | None = None) -> list[JobView]:
        """All jobs, oldest first, or those for one bundle."""
        return self._get("jobs", list[JobView], {"bundle": bundle} if bundle else {})

    def job(self, job_id: str) -> JobView:
        """One job."""
        return self._get(f"jobs/{job_id}", JobView)

    def claim_job(self, worker: str) -> JobView | None:
        """Take the oldest open job, if there is one."""
        return self._send("POST", "jobs/claim", JobClaim(worker=worker), JobView | None)  # type: ignore[arg-type]

    def update_job(self, job_id: str, update: JobUpdate) -> JobView:
        """Report on a job; renews the lease. Raises Refused when it was given to another worker meanwhile."""
        return self._send("PUT", f"jobs/{job_id}", update, JobView)

    def put_artifact(self, job_id: str, name: str, data: bytes) -> None:
        """Hand over what a job made."""
        self._bytes("PUT", f"jobs/{job_id}/artifacts/{name}", data)

    def artifact(self, job_id: str, name: str) -> bytes:
        """What a job made."""
        return self._bytes("GET", f"jobs/{job_id}/artifacts/{name}")

    def _get(self, path: str, kind: type[T], params: dict[str, Any] | None = None) -> T:
        return from_json(self._bytes("GET", path, params=params), kind, what=f"the cloud's answer to {path}")

    def _send(self, method: str, path: str, body: object, kind: type[T]) -> T:
        answer = self._bytes(method, path, to_json(body), media="application/json")
        return from_json(answer, kind, what=f"the cloud's answer to {path}")

    def _done(self, path: str, kind: type[T]) -> T:
        """Have something done that needs no more than its name."""
        return from_json(self._bytes("POST", path), kind, what=f"the cloud's answer to {path}")

    def _bytes(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        *,
        params: dict[str, Any] | None = None,
        media: str = "application/octet-stream",
    ) -> bytes:
        headers = {"content-type": media}
        try:
            response = self._client.request(method, f"/api/v1/{path}", content=content, params=params, headers=headers)
        except httpx.HTTPError as error:
            raise unreachable(error, self._url) from error
        raise_for_reply(response)
        return response.content


def _part(text: str) -> str:
    """A name as one part of an address: whatever a person typed stays one part."""
    return quote(text, safe="") if text not in ("", ".", "..") else "-"


def _client(operator: Operator) -> httpx.Client:
    if not operator.token.isascii():
        raise InvalidInput("the operator file's token holds letters that no token has; copy it again")
    try:
        url = httpx.URL(operator.url)
        if url.scheme == "http" and not is_loopback(url.host):
            raise InvalidInput(
                f"{operator.url} would send your token in the clear; use https:// for other machines ('edgeloop cloud "
                "init --tls' makes what the server needs)"
            )
        private = operator.ca is not None or operator.ca_pem is not None
        return httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {operator.token}"},
            timeout=_TIMEOUT_S,
            verify=ssl.create_default_context(cafile=operator.ca, cadata=operator.ca_pem) if private else True,
        )
    except httpx.InvalidURL as error:
        raise InvalidInput(f"cannot use the address {operator.url!r}: {error}") from error
    except OSError as error:
        raise InvalidInput(f"cannot use the operator file's certificate authority: {error}") from error
