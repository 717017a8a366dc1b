"""Published bundles and the signed metadata that says they exist."""

import msgspec
import sqlalchemy as sa

from edgeloop.bundle.archive import digest, parse_manifest
from edgeloop.cloud.store.restores import FLOOR
from edgeloop.cloud.store.tables import bundles, signed_targets
from edgeloop.contracts.api import BundleView
from edgeloop.contracts.errors import NotFound, Refused
from edgeloop.contracts.manifest import Manifest
from edgeloop.contracts.names import BundleRef, version_key

_NEWEST_TARGETS = sa.select(signed_targets, FLOOR.label("floor")).order_by(signed_targets.c.version.desc()).limit(1)


class SignedTargets(msgspec.Struct, frozen=True):
    """The newest targets metadata of the images repository. floor: see store.restores.FLOOR."""

    version: int
    metadata: bytes
    published_at_s: float
    floor: int = 0


def newest_targets(connection: sa.Connection) -> SignedTargets:
    """What is signed as existing. Raises NotFound in a database that no cloud was founded in."""
    row = connection.execute(_NEWEST_TARGETS).first()
    if row is None:
        raise NotFound("no signed targets; this database was not made by 'edgeloop cloud init'")
    return SignedTargets(row.version, row.metadata, row.published_at_s, row.floor)


def add_targets(connection: sa.Connection, version: int, metadata: bytes, *, after: int, now_s: float) -> None:
    """Keep targets metadata that was checked against version `after`. Raises Refused if other came in between."""
    if newest_targets(connection).version != after:
        raise Refused("someone published in between; publish again")
    connection.execute(signed_targets.insert().values(version=version, metadata=metadata, published_at_s=now_s))


def add_bundle(
    connection: sa.Connection, manifest: Manifest, manifest_bytes: bytes, targets: tuple[int, bytes], *, now_s: float
) -> BundleView:
    """List a bundle together with the targets metadata that signs it. Raises Refused if the version is taken."""
    taken = sa.select(bundles.c.manifest_sha256).where(
        bundles.c.name == manifest.name, bundles.c.version == manifest.version
    )
    if connection.execute(taken).first() is not None:
        raise Refused(f"{manifest.ref} is published already and versions never change; publish under a newer version")
    add_targets(connection, *targets, after=targets[0] - 1, now_s=now_s)
    connection.execute(
        bundles.insert().values(
            name=manifest.name,
            version=manifest.version,
            manifest_sha256=digest(manifest_bytes),
            manifest=manifest_bytes.decode(),
            published_at_s=now_s,
        )
    )
    return get_bundle(connection, manifest.ref)


def get_bundle(connection: sa.Connection, ref: BundleRef) -> BundleView:
    """One bundle. Raises NotFound."""
    query = sa.select(bundles).where(bundles.c.name == ref.name, bundles.c.version == ref.version)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"{ref} is not published here; 'edgeloop bundle list' shows what is")
    return _view(row)


def manifest_bytes(connection: sa.Connection, ref: BundleRef) -> bytes:
    """The manifest exactly as it was signed. Raises NotFound."""
    query = sa.select(bundles.c.manifest).where(bundles.c.name == ref.name, bundles.c.version == ref.version)
    text = connection.execute(query).scalar()
    if text is None:
        raise NotFound(f"{ref} is not published here; 'edgeloop bundle list' shows what is")
    return str(text).encode()


def manifest_of(connection: sa.Connection, sha256: str) -> bytes:
    """The manifest that has this hash. Raises NotFound."""
    text = connection.execute(sa.select(bundles.c.manifest).where(bundles.c.manifest_sha256 == sha256)).scalar()
    if text is None:
        raise NotFound(f"nothing with hash {sha256[:12]} is published here")
    return str(text).encode()


FILES = "files/"
"""Where bundles' files are among the blobs."""


def file_key(sha256: str) -> str:
    """Where a bundle's file is among the blobs."""
    return f"{FILES}{sha256[:2]}/{sha256}"


def newest_bundle(connection: sa.Connection, name: str) -> BundleView:
    """The newest version of a name. Raises NotFound."""
    found = [view for view in list_bundles(connection) if view.name == name]
    if not found:
        raise NotFound(f"no bundle named {name!r} is published here")
    return max(found, key=lambda view: version_key(view.version))


def list_bundles(connection: sa.Connection) -> list[BundleView]:
    """All bundles, in order of publication."""
    return [_view(row) for row in connection.execute(sa.select(bundles).order_by(bundles.c.published_at_s))]


def _view(row: sa.Row[tuple[object, ...]]) -> BundleView:
    return BundleView(
        name=row.name,
        version=row.version,
        manifest_sha256=row.manifest_sha256,
        published_at_s=row.published_at_s,
        manifest=parse_manifest(row.manifest.encode(), what="a stored manifest"),
    )
