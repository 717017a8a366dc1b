"""The device's side of trust: TUF metadata checked by python-tuf's ngclient, over the uplink.

Two repositories, as in Uptane: *images* says what exists (signed by the targets key, which can stay offline) and
*director* says who runs what (signed online, one set of metadata a device). An assignment counts only if both
agree on the manifest's hash. Rules kept here:

- trust begins with the roots of enrolment, and later roots count only as signed by the ones before;
- the director's word for another device, and one repository's root in place of the other's, are turned down before
  anything of them is kept: both would verify;
- nothing counts that is expired by the clock, by the hub's time or by the newest time that was ever seen signed, nor
  what is older than what was seen: a floor on the disk says so, beside python-tuf's own files, which may be lost;
- metadata is fsynced, since rollback protection lives in it;
- whether files come one by one or many in one answer (`packed`) makes no difference to any of these: where what came
  together does not hold, each file is asked for by itself before anything is refused.

Source: Uptane Standard 2.1, 5.4.4 (full verification); TUF specification 1.0, 5.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, Root, Signed, TargetFile, Targets, Timestamp
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edgeloop.bundle.durable import fsync_folder, storage_error
from edgeloop.contracts.codec import from_json
from edgeloop.contracts.errors import EdgeloopError, NotFound, Refused, Unavailable
from edgeloop.contracts.manifest import FileEntry
from edgeloop.contracts.messages import MAX_TARGETS_BYTES, Assignment, TrustReply, TrustRequest
from edgeloop.contracts.names import BundleRef, manifest_target, version_key
from edgeloop.transport.floor import Floor, Mark
from edgeloop.transport.packed import Kept, Packed, version_of

Fetch = Callable[[str, int], bytes]
"""Path and most bytes to bytes; blocking. Raises edgeloop's errors."""

FetchAll = Callable[[TrustRequest], TrustReply]
"""What is held to all that differs from it; blocking. Raises edgeloop's errors."""

_log = structlog.get_logger(__name__)

_BASE = "hub:/"
_ROLES = ("root", "timestamp", "snapshot", "targets")
_MAX_BYTES = {"root": 512_000, "timestamp": 16_384, "snapshot": 2_000_000, "targets": MAX_TARGETS_BYTES}
_PATH = re.compile(
    r"(?P<place>images|director/(?P<device>[a-z0-9-]{1,63}))/metadata/(?:(?P<version>[0-9]{1,20})\.)?(?P<role>[a-z]+)\.json"
)


@dataclass(frozen=True)
class AllSigned:
    """Everything that the targets key signed as existing, by target path; good until expires_at_s, since 1970."""

    targets: Mapping[str, FileEntry]
    expires_at_s: float


class Trust:
    """What a device believes, in a folder. Blocking; one user at a time.

    fetch_all: for many files in one answer; None to ask for each by itself. clock: seconds since 1970, as far as they
    are known: this machine's or the hub's, whichever is later.
    """

    def __init__(
        self,
        folder: Path,
        *,
        images_root: bytes,
        director_root: bytes,
        fetch: Fetch,
        fetch_all: FetchAll | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._roots = {"images": images_root, "director": director_root}
        self._fetcher = _HubFetcher(fetch)
        self._fetch_all = fetch_all
        self._broke_off = False
        self._clock = clock
        self._floor = Floor(folder / "floor.json")
        self._images: Updater | None = None

    def assignment(self, device_id: str) -> Assignment | None:
        """What the director wants this device to run, or None while it wants nothing.

        Raises Refused if the signatures do not hold, the metadata is expired or older than what was seen, or the
        two repositories disagree; Unavailable if the hub cannot be reached.
        """
        with self._asking_for(device_id):
            target = self._refresh("director", f"director/{device_id}").get_targetinfo("assignment")
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

    def generation(self) -> int | None:
        """Which of this device's assignments the director's last word was about; None if it did not say."""
        said = self._read("director", "targets").unrecognized_fields.get("generation")
        return said if isinstance(said, int) else None

    def refresh(self, device_id: str) -> None:
        """Bring both repositories up to date, and the floor with them. Raises as `assignment`."""
        with self._asking_for(device_id):
            self._refresh("director", f"director/{device_id}")
            self._refreshed()

    def image(self, target: str) -> TargetFile:
        """What the targets key signed of this path: its length and hash. Raises Refused if it never signed it.

        The metadata is refreshed once after each `assignment`, not for each file.
        """
        with _translated("images"):
            found = self._refreshed().get_targetinfo(target)
        if found is None:
            raise Refused(
                f"the targets key never signed {target}; it does not exist as far as this device is concerned"
            )
        return found

    def signed(self) -> AllSigned:
        """All that exists, asked for anew. Raises Refused if the signatures do not hold or are expired; Unavailable."""
        self._images = None
        images = self._refreshed()
        with _translated("images"):
            # The file that python-tuf has just checked names the paths; what is signed of each comes from its memory.
            paths = Metadata[Targets].from_bytes(self._bytes("images", "targets")).signed.targets
            found = {path: images.get_targetinfo(path) for path in paths}
        targets = {path: _entry(one) for path, one in found.items() if one is not None and "sha256" in one.hashes}
        return AllSigned(targets, self._first_expiry_s("images"))

    def expires_at_s(self) -> float | None:
        """When the first of what is kept here expires, in seconds since 1970; None before anything was asked."""
        known = [name for name in self._roots if (self._folder / name / "targets.json").is_file()]
        return min((self._first_expiry_s(name) for name in known), default=None)

    @contextmanager
    def _asking_for(self, device_id: str) -> Iterator[None]:
        """Both repositories out of one answer meanwhile, where the hub gives such."""
        self._images = None
        self._fetcher.packed = self._fetched_all({"images": "images", "director": f"director/{device_id}"})
        try:
            yield
        finally:
            self._fetcher.packed = None

    def _fetched_all(self, places: dict[str, str]) -> Packed | None:
        """All that is newer, in one answer; None where each file is to be asked for. Raises Unavailable.

        A hub that is away is not asked a second time; but where an answer broke off or dripped, the next question takes
        the other way, on which each file that came is kept.
        """
        if self._fetch_all is None or self._broke_off:
            self._broke_off = False
            return None
        kept = {place: self._kept(name) for name, place in places.items()}
        try:
            reply = self._fetch_all(TrustRequest(held={place: one.held for place, one in kept.items()}))
        except NotFound:  # a hub that is older than this question
            return None
        except Unavailable as error:
            self._broke_off = not error.retry_after_s  # a hub that asks for patience is not to be asked for more
            raise
        except EdgeloopError as error:
            _log.warning("signed_words_asked_for_singly", code=error.code, detail=str(error))
            return None
        return Packed(reply, kept)

    def _kept(self, name: str) -> Kept:
        return Kept(self._folder / name, least_root=version_of(self._roots[name]))

    def _refreshed(self) -> Updater:
        if self._images is None:
            self._images = self._refresh("images", "images")
        return self._images

    def _refresh(self, name: str, path: str) -> Updater:
        """Ask for what is newest, and hold it to the clock and to the floor."""
        if self._fetcher.packed is not None:
            try:
                return self._refresh_once(name, path)
            except (Refused, Unavailable) as error:
                # It lies, or what is held and was therefore left out is damaged on this disk.
                _log.warning("signed_words_asked_for_singly", code=error.code, detail=str(error))
                self._fetcher.packed = None
        return self._refresh_once(name, path)

    def _refresh_once(self, name: str, path: str) -> Updater:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        config = UpdaterConfig(prefix_targets_with_hash=False, targets_max_length=_MAX_BYTES["targets"])
        with _translated(name):
            updater = Updater(
                str(folder),
                f"{_BASE}{path}/metadata/",
                fetcher=self._fetcher,
                config=config,
                bootstrap=self._roots[name],
            )
            # python-tuf has no way to be told the time but this attribute (7.0, `TrustedMetadataSet`).
            updater._trusted_set.reference_time = datetime.fromtimestamp(self._clock(), UTC)
            updater.refresh()
            self._settle(folder)
            self._hold_to_floor(name)
        return updater

    def _hold_to_floor(self, name: str) -> None:
        """Refuse what is older, or expired before, than what was signed and seen here; else let the floor rise."""
        timestamp, expires_at_s = self._read(name, "timestamp"), self._first_expiry_s(name)
        assert isinstance(timestamp, Timestamp)
        root = self._read(name, "root")
        assert isinstance(root, Root)
        (key_id, *_) = root.roles["timestamp"].keyids
        signed_at_s = float(timestamp.unrecognized_fields.get("signed_at", 0))
        seen = Mark(key_id=key_id, version=timestamp.version, signed_at_s=min(signed_at_s, expires_at_s))
        self._floor.hold(name, seen, expires_at_s=expires_at_s)

    def _first_expiry_s(self, name: str) -> float:
        return min(self._read(name, role).expires.timestamp() for role in _ROLES)

    def _read(self, name: str, role: str) -> Signed:
        signed: Signed = Metadata.from_bytes(self._bytes(name, role)).signed
        return signed

    def _bytes(self, name: str, role: str) -> bytes:
        return (self._folder / name / f"{role}.json").read_bytes()

    def _settle(self, folder: Path) -> None:
        """python-tuf renames without fsync; what stands there must survive a power cut."""
        for path in folder.rglob("*.json"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        fsync_folder(folder / "root_history")
        fsync_folder(folder)


def _entry(target: TargetFile) -> FileEntry:
    return FileEntry(target.hashes["sha256"], target.length)


def require_not_older(ref: BundleRef, floor: BundleRef | None) -> None:
    """Raise Refused if `ref` goes back behind the newest version that was confirmed here."""
    if floor is not None and floor.name == ref.name and version_key(ref.version) < version_key(floor.version):
        raise Refused(
            f"{ref} is older than {floor}, which was confirmed here; a device never goes back that way. "
            "Publish the old content under a newer version."
        )


class _HubFetcher(FetcherInterface):
    """TUF's network port over the uplink's fetch. packed: what came of it in one answer already."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch_path = fetch
        self.packed: Packed | None = None

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = url.removeprefix(_BASE)
        found = _PATH.fullmatch(path)
        if found is None:
            raise RepositoryError(f"what is signed leads to {path}, which no hub has")
        try:
            data = self._found_packed(found)
            if data is None:
                data = self._fetch_path(path, _MAX_BYTES[found["role"]])
        except NotFound as error:
            raise DownloadHTTPError(str(error), 404) from error
        _require_meant_for(found, data)
        return iter([data])

    def _found_packed(self, path: "re.Match[str]") -> bytes | None:
        if self.packed is None:
            return None
        version = None if path["version"] is None else int(path["version"])
        data = self.packed.find(path[0], place=path["place"], role=path["role"], version=version)
        if data is not None and len(data) > _MAX_BYTES[path["role"]]:
            raise RepositoryError(f"{path[0]} has {len(data):,} bytes; at most {_MAX_BYTES[path['role']]:,} are taken")
        return data


def _require_meant_for(path: "re.Match[str]", data: bytes) -> None:
    """Turn down what would verify and yet is not for this repository or device. What is accepted is verified next.

    Both repositories have the same root keys, and all devices the same director's keys. Metadata of clouds older than
    these fields bears none but for roots from version 2 on, which no older cloud could make.
    """
    if path["device"] is None and path["role"] != "root":
        return
    try:
        signed = json.loads(data)["signed"]
        device, repository = signed.get("device"), signed.get("repository")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RepositoryError(f"{path[0]} is no TUF metadata") from error
    wanted = "images" if path["device"] is None else "director"
    if path["role"] == "root":
        if repository != wanted and (repository is not None or path["version"] != "1"):
            raise RepositoryError(f"{path[0]} is a root of {repository or 'no repository'}, not of {wanted}")
    elif path["device"] is not None and device not in (None, path["device"]):
        raise RepositoryError(f"{path[0]} is the director's word for another device, {device!r}")


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
        # What our own fetcher turned down comes wrapped as a failure to download.
        cause = error.__cause__ if isinstance(error, DownloadError) else error
        if isinstance(cause, RepositoryError) and not isinstance(cause, DownloadError):
            raise Refused(f"the {self._repository} metadata does not hold: {cause}. Nothing was changed.") from error
        if isinstance(error, DownloadError):
            failure = Unavailable(f"cannot fetch the {self._repository} metadata: {error.__cause__ or error}")
            if isinstance(cause, Unavailable):
                failure.retry_after_s = cause.retry_after_s
            raise failure from error
        if isinstance(error, OSError):
            raise storage_error(error, Path(f"the {self._repository} metadata"), size_bytes=0) from error
