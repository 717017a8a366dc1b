"""Sign a bundle with the targets keys, wherever they are kept, and hand it to the cloud."""

import time
from collections.abc import Sequence
from pathlib import Path

from edgeloop.bundle.archive import Bundle, open_bundle
from edgeloop.contracts.api import BundleView, PublishRequest
from edgeloop.contracts.errors import NotFound
from edgeloop.contracts.names import file_target, manifest_target
from edgeloop.transport.cloud_api import CloudApi
from edgeloop.transport.identity import read_key
from edgeloop.transport.signing import next_targets


def publish(path: Path, api: CloudApi, *, targets_key: Path, further_keys: Sequence[Path] = ()) -> BundleView:
    """Verify every file, sign, upload what the cloud lacks, list it.

    further_keys: where the targets role needs more than one signature. Raises NotFound without a key, Corrupt on a
    damaged bundle, Refused if the version is taken or the signatures are not enough.
    """
    keys = [targets_key, *further_keys]
    for key in keys:
        if not key.is_file():
            raise NotFound(
                f"no targets key at {key}; publishing needs the key that 'edgeloop cloud init' made. "
                "Bring it here, or name it with --key."
            )
    bundle = open_bundle(path)
    bundle.verify()
    signed = sign_targets(api.signed_targets(), bundle, *keys)
    for sha256 in api.missing_files([entry.sha256 for entry in bundle.manifest.files]):
        api.put_file(sha256, bundle.read(sha256))
    return api.publish(PublishRequest(manifest=bundle.manifest_bytes, targets_metadata=signed))


def sign_targets(current: bytes, bundle: Bundle, *targets_keys: Path) -> bytes:
    """The next version of the targets metadata, with the bundle's manifest and files added."""
    contents = {manifest_target(bundle.manifest.ref): bundle.manifest_bytes}
    contents |= {file_target(entry.sha256): bundle.read(entry.sha256) for entry in bundle.manifest.files}
    return next_targets(current, contents, keys=[read_key(key) for key in targets_keys], now_s=time.time())
