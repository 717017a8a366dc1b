"""Sign a bundle with the targets key, wherever that key is kept, and hand it to the cloud."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, TargetFile, Targets

from edgeloop.bundle.archive import Bundle, open_bundle
from edgeloop.contracts.api import BundleView, PublishRequest
from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.names import file_target, manifest_target
from edgeloop.transport.cloud_api import CloudApi
from edgeloop.transport.identity import read_key

_VALID_YEARS = 5


def publish(path: Path, api: CloudApi, *, targets_key: Path) -> BundleView:
    """Verify every file, sign, upload what the cloud lacks, list it.

    Raises NotFound without the key, Corrupt on a damaged bundle, Refused if the version is taken.
    """
    if not targets_key.is_file():
        raise NotFound(
            f"no targets key at {targets_key}; publishing needs the key that 'edgeloop cloud init' made. "
            "Bring it here, or name it with --key."
        )
    bundle = open_bundle(path)
    bundle.verify()
    signed = sign_targets(api.signed_targets(), bundle, targets_key)
    for sha256 in api.missing_files([entry.sha256 for entry in bundle.manifest.files]):
        api.put_file(sha256, bundle.read(sha256))
    return api.publish(PublishRequest(manifest=bundle.manifest_bytes, targets_metadata=signed))


def sign_targets(current: bytes, bundle: Bundle, targets_key: Path) -> bytes:
    """The next version of the targets metadata, with the bundle's manifest and files added.

    Source: TUF specification 1.0, 4.5.
    """
    metadata = Metadata[Targets].from_bytes(current)
    targets = metadata.signed
    contents = {manifest_target(bundle.manifest.ref): bundle.manifest_bytes}
    contents |= {file_target(entry.sha256): bundle.read(entry.sha256) for entry in bundle.manifest.files}
    for target, data in contents.items():
        targets.targets[target] = TargetFile.from_data(target, data, ["sha256"])
    targets.version += 1
    targets.expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=365 * _VALID_YEARS)
    metadata.sign(CryptoSigner(read_key(targets_key)))
    return bytes(metadata.to_bytes())
