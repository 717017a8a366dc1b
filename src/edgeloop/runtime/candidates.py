"""Which of a bundle's variants to try first, before anything was measured here."""

from collections.abc import Iterable

from edgeloop.contracts.manifest import EngineName, Manifest, Precision, Variant


def candidates(manifest: Manifest, engines: Iterable[EngineName]) -> list[Variant]:
    """The variants that these engines could run, the most promising first.

    Latency was measured elsewhere, so differences below a factor of two say little; among variants that near to
    the fastest the smaller one comes first, since it is cheaper to fetch and to hold.
    """
    allowed = set(engines)
    able = [variant for variant in manifest.variants if variant.engine in allowed]
    fastest_ms = min((v.measured.latency_p50_ms for v in able if v.measured), default=0.0)

    def rank(variant: Variant) -> tuple[int, float]:
        if variant.measured is None:
            return 2, variant.size_bytes
        latency_ms = variant.measured.latency_p50_ms
        return (1, latency_ms) if latency_ms > 2 * fastest_ms else (0, variant.size_bytes)

    return sorted(able, key=rank)


def float_first(manifest: Manifest, engines: Iterable[EngineName]) -> list[Variant]:
    """The same candidates, the most exact first: for a tier that has the power."""
    return sorted(candidates(manifest, engines), key=lambda v: v.precision is not Precision.FLOAT32)
