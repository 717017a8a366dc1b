"""Who may do what in a cloud: roles, API tokens and the log of what was done.

Neighbours: `cloud.api` asks for a role on every route, `cloud.store.access` keeps the hashes and the log,
`transport.cloud_api` is the client.
"""

from enum import StrEnum
from typing import Annotated

import msgspec

from edgeloop.contracts.names import Name


class Role(StrEnum):
    """What a token's holder may do; each role may do all that those before it may.

    viewer: look. operator: run the fleet: publish, roll out, label, admit and revoke devices, do jobs.
    owner: say who else may, and read the log.
    """

    VIEWER = "viewer"
    OPERATOR = "operator"
    OWNER = "owner"

    def covers(self, needed: "Role") -> bool:
        """Whether this role may do what `needed` may.

        >>> Role.OWNER.covers(Role.VIEWER), Role.VIEWER.covers(Role.OPERATOR)
        (True, False)
        """
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(needed)


class AccessRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for an API token. valid_s: seconds until it expires, None for one that does not."""

    name: Name
    role: Role
    valid_s: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None


class AccessToken(msgspec.Struct, frozen=True, kw_only=True):
    """A new API token; it is shown once, the cloud keeps its hash only."""

    name: Name
    role: Role
    token: str
    expires_at_s: float | None


class AccessView(msgspec.Struct, frozen=True, kw_only=True):
    """Who has a token. created_by is empty for the owner that `cloud init` made."""

    name: Name
    role: Role
    created_at_s: float
    created_by: str
    expires_at_s: float | None


class AccessEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log.

    It is written before the request is carried out. outcome: "done", or an error's code, or empty when the cloud ended
    before it could say. target: what the request's address named; detail: what was made or changed.
    """

    entry: int
    at_s: float
    who: str
    role: Role
    address: str
    action: str
    target: str
    outcome: str
    detail: str
