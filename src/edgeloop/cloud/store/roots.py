"""The roots of trust, all versions of both repositories: devices follow from the one they know to the newest."""

import msgspec
import sqlalchemy as sa

from edgeloop.cloud.store.database import insert_ignoring
from edgeloop.cloud.store.tables import signed_roots
from edgeloop.contracts.errors import NotFound, Refused
from edgeloop.contracts.join import roots_fingerprint
from edgeloop.transport.signing import DIRECTOR, IMAGES


class SignedRoot(msgspec.Struct, frozen=True):
    """One version of a repository's root."""

    version: int
    metadata: bytes
    added_at_s: float


class Roots(msgspec.Struct, frozen=True):
    """Every root of both repositories, oldest first; version N stands at N - 1."""

    images: tuple[SignedRoot, ...]
    director: tuple[SignedRoot, ...]

    def newest(self) -> tuple[bytes, bytes]:
        """The roots of now: of images, of the director."""
        return self.images[-1].metadata, self.director[-1].metadata

    def fingerprint(self) -> str:
        """What a join token made now says."""
        return roots_fingerprint(*self.newest())

    def pair(self, fingerprint: str) -> tuple[bytes, bytes]:
        """The roots that a join token of this fingerprint was made for; those of now if there are none such."""
        for images in reversed(self.images):
            for director in reversed(self.director):
                if roots_fingerprint(images.metadata, director.metadata) == fingerprint:
                    return images.metadata, director.metadata
        return self.newest()


def read_roots(connection: sa.Connection) -> Roots:
    """All roots. Raises NotFound in a database that no cloud was founded in."""
    found: dict[str, list[SignedRoot]] = {IMAGES: [], DIRECTOR: []}
    for row in connection.execute(sa.select(signed_roots).order_by(signed_roots.c.version)):
        found[row.repository].append(SignedRoot(row.version, row.metadata, row.added_at_s))
    if not all(found.values()):
        raise NotFound("no roots of trust; this database was not made by 'edgeloop cloud init'")
    return Roots(tuple(found[IMAGES]), tuple(found[DIRECTOR]))


def add_root(connection: sa.Connection, repository: str, version: int, metadata: bytes, *, now_s: float) -> None:
    """Keep a root that was checked. Raises Refused if another took its place meanwhile."""
    newest = sa.select(sa.func.max(signed_roots.c.version)).where(signed_roots.c.repository == repository)
    if (connection.execute(newest).scalar() or 0) != version - 1:
        raise Refused(f"somebody changed the {repository} root in between; look with 'keys show' and begin anew")
    row = {"repository": repository, "version": version, "metadata": metadata, "added_at_s": now_s}
    if insert_ignoring(connection, signed_roots, [row]) != 1:
        raise Refused(f"somebody changed the {repository} root at the same moment; begin anew")
