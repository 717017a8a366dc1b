from pathlib import Path

import msgspec
import pytest

from builds import make_build
from edgeloop.bundle.archive import open_bundle
from edgeloop.contracts.errors import EdgeloopError, InvalidInput, NotFound, Refused
from edgeloop.contracts.manifest import Budget
from edgeloop.toolchain.package import Bounds, pack


def _pack(tmp_path: Path, bounds: Bounds | None = None, *, out: str = "tiny-1.0.0.edgeloop") -> Path:
    path = tmp_path / "out" / out
    pack(tmp_path / "build", name="tiny", version="1.0.0", out=path, bounds=bounds)
    return path


def _refusal(tmp_path: Path, bounds: Bounds) -> str:
    with pytest.raises(Refused) as caught:
        _pack(tmp_path, bounds)
    return str(caught.value)


def test_bundle_holds_what_was_built(tmp_path: Path) -> None:
    build = make_build(tmp_path / "build").read_draft()
    bundle = open_bundle(_pack(tmp_path))
    bundle.verify()
    manifest = bundle.manifest
    assert (str(manifest.ref), manifest.variants, manifest.labels, manifest.lineage) == (
        "tiny@1.0.0",
        build.variants,
        build.labels,
        build.lineage,
    )


def test_same_build_gives_the_same_bytes(tmp_path: Path) -> None:
    make_build(tmp_path / "build")
    assert _pack(tmp_path, out="a.edgeloop").read_bytes() == _pack(tmp_path, out="b.edgeloop").read_bytes()


def test_bounds_on_latency_and_memory_bind_devices_too(tmp_path: Path) -> None:
    make_build(tmp_path / "build")
    packed = open_bundle(_pack(tmp_path, Bounds(max_latency_p50_ms=7.0, max_memory_bytes=10**9)))
    assert packed.manifest.budget == Budget(max_latency_p50_ms=7.0, max_peak_memory_bytes=10**9)


def test_bounds_that_were_not_given_are_not_written(tmp_path: Path) -> None:
    """A runtime of before a bound refuses what it does not know of."""
    make_build(tmp_path / "build")
    assert b'"budget":{}' in open_bundle(_pack(tmp_path)).manifest_bytes


BOUNDS = [
    (Bounds(max_drop_points=1.0), {"accuracy": 0.985}, "loses 1.50 points, allowed 1.00"),
    (Bounds(max_size_bytes=100), {}, "bytes, allowed 100"),
    (Bounds(max_latency_p50_ms=2.0), {"latency_p50_ms": 2.5}, "takes 2.50 ms here, allowed 2.00"),
]


@pytest.mark.parametrize(("bounds", "figures", "said"), BOUNDS)
def test_missed_bound_is_refused_with_by_how_much(
    tmp_path: Path, bounds: Bounds, figures: dict[str, float], said: str
) -> None:
    make_build(tmp_path / "build", **figures)
    assert said in _refusal(tmp_path, bounds)


@pytest.mark.parametrize(("bounds", "figures", "said"), BOUNDS)
def test_missed_bound_writes_nothing(tmp_path: Path, bounds: Bounds, figures: dict[str, float], said: str) -> None:
    make_build(tmp_path / "build", **figures)
    _refusal(tmp_path, bounds)
    assert not (tmp_path / "out").exists()


def test_every_missed_bound_is_told(tmp_path: Path) -> None:
    make_build(tmp_path / "build", accuracy=0.5, latency_p50_ms=9.0)
    message = _refusal(tmp_path, Bounds(max_drop_points=1.0, max_size_bytes=1, max_latency_p50_ms=1.0))
    assert message.count("allowed") == 3


@pytest.mark.parametrize(
    "bounds", [Bounds(max_drop_points=0.0), Bounds(max_latency_p50_ms=0.05), Bounds(max_size_bytes=10**6), Bounds()]
)
def test_kept_bound_is_written(tmp_path: Path, bounds: Bounds) -> None:
    make_build(tmp_path / "build")
    assert _pack(tmp_path, bounds).is_file()


def test_variant_that_was_never_measured_is_refused(tmp_path: Path) -> None:
    make_build(tmp_path / "build", measured=False)
    assert "onnxruntime float32 was never measured" in _refusal(tmp_path, Bounds())


@pytest.mark.parametrize("out", ["tiny.zip", "tiny", "tiny.edgeloop.tmp"])
def test_wrong_suffix_is_refused(tmp_path: Path, out: str) -> None:
    make_build(tmp_path / "build")
    with pytest.raises(InvalidInput, match=r"must end in \.edgeloop"):
        _pack(tmp_path, out=out)


def test_build_without_variants_is_refused(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "build")
    folder.write_draft(msgspec.structs.replace(folder.read_draft(), variants=()))
    with pytest.raises(InvalidInput, match="no variants yet"):
        _pack(tmp_path)


def test_missing_build_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no build in"):
        _pack(tmp_path)


@pytest.mark.parametrize(("name", "version"), [("Tiny", "1.0.0"), ("tiny", "1.0"), ("tiny", "v1.0.0"), ("", "1.0.0")])
def test_name_or_version_that_is_none_is_refused(tmp_path: Path, name: str, version: str) -> None:
    make_build(tmp_path / "build")
    with pytest.raises(InvalidInput, match=r"NAME@MAJOR\.MINOR\.PATCH"):
        pack(tmp_path / "build", name=name, version=version, out=tmp_path / "x.edgeloop")


def test_damaged_file_of_the_build_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "build")
    variant = folder.read_draft().variants[0]
    (tmp_path / "build" / "files" / variant.file).write_bytes(bytes(variant.size_bytes))
    with pytest.raises(EdgeloopError, match="convert again"):
        _pack(tmp_path)
    assert not (tmp_path / "out").exists()
