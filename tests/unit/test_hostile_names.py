"""Names that came from elsewhere (manifests, jobs, messages, addresses) and are used for files: none leads anywhere."""

import asyncio
import re
import zipfile
from pathlib import Path

import msgspec
import pytest

from builders import make_bundle, make_parts
from edgeloop.bundle.archive import open_bundle, parse_manifest
from edgeloop.bundle.shelf import Shelf
from edgeloop.contracts.codec import to_json
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound
from edgeloop.contracts.messages import EnrolRequest, InferRequest, SyncRequest
from edgeloop.contracts.names import BundleRef, require_name
from edgeloop.node.cache import Cache
from edgeloop.transport.budget import Budget
from edgeloop.transport.cloud_api import _part
from edgeloop.transport.keep import Keep
from edgeloop.transport.metering import Meter
from small_cloud import SmallCloud, enrol_request

NAMES = [
    "..", ".", "../x", "a/b", "/etc/passwd", "a\0b", "\0", "", " ", "a b", "-rf", "--help", "a\nb", "é", "\u202e",
    "x" * 64, "x" * 5000, "A", ".hidden", "a.", "con:", "a\\b", "..\\x", "%2e%2e", "$(id)", "`id`", "a;id", "a|id", "*",
    "~", "a\r\nx: y",
]  # fmt: skip
VERSIONS = [
    "..",
    "1.0",
    "1.0.0/..",
    "1.0.0\n",
    "01.0.0",
    "1.0.0-x",
    "-1.0.0",
    "1.0.0\0",
    "9" * 400 + ".0.0",
    "",
    "../1",
]
HASHES = ["..", "../" * 5 + "etc/passwd", "a" * 63, "A" * 64, "a" * 64 + "\n", "a" * 63 + "/", "\0" * 64, "", "a" * 999]
MEMBERS = ["../evil", "/etc/evil", "files/../../evil", "files/" + "a" * 63, "files/a/b", "evil\0", "files/..",
           "C:\\evil", "files\\" + "a" * 64, "", "files/", "-x", "é"]  # fmt: skip


def _shown(text: str) -> str:
    return repr(text[:20])


@pytest.mark.parametrize("name", NAMES, ids=_shown)
def test_name_that_is_none_is_turned_down_wherever_one_is_read(name: str) -> None:
    with pytest.raises(InvalidInput):
        require_name(name, what="name")
    with pytest.raises(InvalidInput):
        BundleRef.parse(f"{name}@1.0.0")
    for kind, told in (
        (EnrolRequest, {**msgspec.to_builtins(enrol_request("a", "s" * 43)), "device_id": name}),
        (InferRequest, {"name": name, "data": b""}),
        (SyncRequest, {"reports": [{"device_id": name, "known_generation": 0}]}),
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode(told), type=kind)


def _manifest(**changes: object) -> bytes:
    return to_json({**msgspec.to_builtins(make_parts().manifest), **changes})


@pytest.mark.parametrize("name", NAMES, ids=_shown)
def test_manifest_with_such_a_name_is_not_shelved(name: str, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "shelf")
    with pytest.raises(EdgeloopError):
        shelf.put_manifest(_manifest(name=name))
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("version", VERSIONS, ids=_shown)
def test_manifest_with_such_a_version_is_not_shelved(version: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeloopError):
        Shelf(tmp_path / "shelf").put_manifest(_manifest(version=version))
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("sha256", HASHES, ids=_shown)
def test_manifest_that_names_files_so_is_turned_down(sha256: str) -> None:
    manifest = msgspec.to_builtins(make_parts().manifest)
    manifest["files"][0]["sha256"] = sha256
    with pytest.raises(EdgeloopError):
        parse_manifest(to_json(manifest))
    manifest = msgspec.to_builtins(make_parts().manifest)
    manifest["variants"][0]["file"] = sha256
    with pytest.raises(EdgeloopError):
        parse_manifest(to_json(manifest))


@pytest.mark.parametrize("member", MEMBERS, ids=_shown)
def test_archive_with_such_a_member_is_not_opened(member: str, tmp_path: Path) -> None:
    path = make_bundle(tmp_path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(member, (1980, 1, 1, 0, 0, 0)), b"evil")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(EdgeloopError):
        open_bundle(path)
    assert sorted(tmp_path.rglob("*")) == before


class _Anything:
    """An uplink that has every file, whatever it is called."""

    async def fetch(self, path: str, *, max_bytes: int) -> bytes:
        return b"evil"


PATHS = ["..", "../x", "images/../../x", "/etc/passwd", "images//x", "images/.hidden", "images/-x", "a", "",
         "images/a\0b", "images/\u2028", "images/" + "x" * 300, "/".join("abcdefghij"), "images/metadata/",
         "images\\..\\x", "Images/x", "images/metadata/..", "./images/x", "images/metadata/1.root.json\n"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=_shown)
def test_node_keeps_nothing_under_such_a_path(path: str, tmp_path: Path) -> None:
    keep = Keep(tmp_path / "node.db")
    cache = Cache(tmp_path / "cache", _Anything(), Meter(Budget(keep), on_wait=lambda: None))  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        asyncio.run(cache.get(path))
    keep.close()
    assert [one.name for one in tmp_path.rglob("*")] == ["node.db"]


@pytest.mark.parametrize("path", [*PATHS, *(f"director/{name}/metadata/timestamp.json" for name in NAMES)], ids=_shown)
def test_cloud_serves_nothing_under_such_a_path(path: str, cloud: SmallCloud) -> None:
    cloud.enrol("camera-1")
    with pytest.raises(EdgeloopError):
        asyncio.run(cloud.hub.fetch("camera-1", path))


@pytest.mark.parametrize("name", NAMES, ids=_shown)
def test_name_stays_one_part_of_an_address(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]+", _part(name))
    assert _part(name) not in (".", "..")


def test_no_module_of_ours_starts_a_shell() -> None:
    """What is started is started by a list of words, by `exec`; see docs/access.md for each place."""
    source = Path(parse_manifest.__code__.co_filename).parents[1]
    text = {path: path.read_text(encoding="utf-8") for path in source.rglob("*.py")}
    shells = re.compile(r"shell\s*=\s*True|os\.system\(|os\.popen\(|create_subprocess_shell|getoutput\(")
    assert [path.name for path, said in text.items() if shells.search(said) and path.name != "torch.py"] == []
    assert not re.search(r"shell\s*=\s*True|subprocess|os\.system\(", text[source / "toolchain/source/torch.py"])
