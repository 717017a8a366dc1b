"""Which variants are tried first, by what was measured elsewhere."""

import msgspec

from builders import make_parts
from edgeloop.contracts.manifest import EngineName, Precision, Variant
from edgeloop.runtime.candidates import candidates, float_first


def _variant(engine: EngineName, precision: Precision, latency_ms: float | None, size_bytes: int) -> Variant:
    variant = make_parts().manifest.variants[0]
    assert variant.measured is not None
    measured = None
    if latency_ms is not None:
        measured = msgspec.structs.replace(variant.measured, latency_p50_ms=latency_ms)
    return msgspec.structs.replace(
        variant, engine=engine, precision=precision, measured=measured, size_bytes=size_bytes
    )


SLOW = _variant(EngineName.ONNXRUNTIME, Precision.FLOAT32, 9.0, 10)
FAST = _variant(EngineName.LITERT, Precision.INT8, 1.0, 99)
SMALL = _variant(EngineName.LITERT, Precision.FLOAT32, None, 1)
LARGE = _variant(EngineName.LITERT, Precision.INT8, None, 2)


def test_fastest_variant_comes_first_then_the_smallest_of_the_unmeasured() -> None:
    manifest = make_parts().changed(variants=(LARGE, SMALL, SLOW, FAST)).manifest
    assert candidates(manifest, EngineName) == [FAST, SLOW, SMALL, LARGE]


def test_variants_for_other_engines_are_no_candidates() -> None:
    manifest = make_parts().changed(variants=(SLOW, FAST)).manifest
    assert candidates(manifest, [EngineName.ONNXRUNTIME]) == [SLOW]


def test_float_comes_first_where_exactness_counts() -> None:
    manifest = make_parts().changed(variants=(FAST, SLOW)).manifest
    assert float_first(manifest, EngineName) == [SLOW, FAST]
