"""The device's side of trust: TUF metadata checked by python-tuf's ngclient, over the uplink.

Two repositories, as in Uptane: *images* says what exists (signed by the targets key, which can stay offline) and
*director* says who runs what (signed online, one set of metadata a device). An assignment counts only if both
agree on the manifest's hash. Rules kept here: trust begins with the roots of enrolment, and later roots count only as
signed by the ones before; a version
below the floor is refused; metadata is fsynced, since rollback protection lives in it.
Source: Uptane Standard 2.1, 5.4.4 (full verification); TUF specification 1.0, 5.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import TargetFile
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edgeloop.bundle.durable import fsync_folder
from edgeloop.contracts.codec import from_json
from edgeloop.contracts.errors import NotFound, Refused, Unavailable
from edgeloop.contracts.messages import Assignment
from edgeloop.contracts.names import BundleRef, manifest_target, version_key

Fetch = Callable[[str, int], bytes]
"""Path and most bytes to bytes; blocking. Raises edgeloop's errors."""

_BASE = "hub:/"
_MAX_METADATA_BYTES = 8_000_000


class Trust:
    """What a device believes, in a folder. Blocking; one user at a time."""

    def __init__(self, folder: Path, *, images_root: bytes, director_root: bytes, fetch: Fetch) -> None:
        self._folder = folder
        self._roots = {"images": images_root, "director": director_root}
        self._fetcher = _HubFetcher(fetch)
        self._images: Updater | None = None

    def assignment(self, device_id: str) -> Assignment | None:
        """What the director wants this device to run, or None while it wants nothing.

        Raises Refused if the signatures do not hold, the metadata is expired or older than what was seen, or the
        two repositories disagree; Unavailable if the hub cannot be reached.
        """
        self._images = None
        with _translated("director"):
            updater = self._updater("director", f"director/{device_id}")
            target = updater.get_targetinfo("assignment")
            self._settle("director")
        if target is None:
            return None
        custom = target.unrecognized_fields.get("custom", {})
        text = str(custom.get("assignment", ""))
        assignment = from_json(text.encode(), Assignment, what="the director's signed assignment")
        image = self.image(manifest_target(assignment.ref))
        if image.hashes.get("sha256") != assignment.manifest_sha256:
            raise Refused(
                f"the director assigns {assignment.bundle} with manifest {assignment.manifest_sha256[:12]}, but what "
                f"is signed as existing is {image.hashes.get('sha256', '')[:12]}; publish and roll out again"
            )
        return assignment

    def image(self, target: str) -> TargetFile:
        """What the targets key signed of this path: its length and hash. Raises Refused if it never signed it.

        The metadata is refreshed once after each `assignment`, not for each file.
        """
        with _translated("images"):
            if self._images is None:
                updater = self._updater("images", "images")
                updater.refresh()
                self._settle("images")
                self._images = updater
            found = self._images.get_targetinfo(target)
        if found is None:
            raise Refused(
                f"the targets key never signed {target}; it does not exist as far as this device is concerned"
            )
        return found

    def _updater(self, name: str, path: str) -> Updater:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        config = UpdaterConfig(prefix_targets_with_hash=False, targets_max_length=_MAX_METADATA_BYTES)
        return Updater(
            str(folder), f"{_BASE}{path}/metadata/", fetcher=self._fetcher, config=config, bootstrap=self._roots[name]
        )

    def _settle(self, name: str) -> None:
        """python-tuf renames without fsync; what stands there must survive a power cut."""
        for path in (self._folder / name).rglob("*.json"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        fsync_folder(self._folder / name)


def require_not_older(ref: BundleRef, floor: BundleRef | None) -> None:
    """Raise Refused if `ref` goes back behind the newest version that was confirmed here."""
    if floor is not None and floor.name == ref.name and version_key(ref.version) < version_key(floor.version):
        raise Refused(
            f"{ref} is older than {floor}, which was confirmed here; a device never goes back that way. "
            "Publish the old content under a newer version."
        )


class _HubFetcher(FetcherInterface):
    """TUF's network port over the uplink's fetch."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch_path = fetch

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            return iter([self._fetch_path(url.removeprefix(_BASE), _MAX_METADATA_BYTES)])
        except NotFound as error:
            raise DownloadHTTPError(str(error), 404) from error


class _translated:  # noqa: N801 - reads as a clause in `with`
    """Turn python-tuf's errors into ours where they enter."""

    def __init__(self, repository: str) -> None:
        self._repository = repository

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ExpiredMetadataError):
            raise Refused(
                f"the {self._repository} metadata is expired: {error}. The cloud must sign it anew, or this "
                "device's clock is ahead (see 'edgeloop doctor')."
            ) from error
        if isinstance(error, RepositoryError):
            raise Refused(f"the {self._repository} metadata does not hold: {error}. Nothing was changed.") from error
        if isinstance(error, DownloadError):
            raise Unavailable(f"cannot fetch the {self._repository} metadata: {error.__cause__ or error}") from error
