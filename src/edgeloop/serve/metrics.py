"""The counts of a server as Prometheus metrics, made when they are asked for.

edgeloop_requests_total{model,version,code}       answers by HTTP status; model "" for addresses of no model
edgeloop_request_seconds{model,version}           histogram: from the whole request to its answer
edgeloop_predictions_total{model,outcome}         inputs answered, failed, rejected (429), late or gone
edgeloop_batch_size{model}                        histogram: inputs a run of the engine
edgeloop_queue_depth{model}, edgeloop_queue_limit{model}, edgeloop_workers{model}
edgeloop_swaps_total{model,outcome}               versions swapped in, or refused
edgeloop_model_info{model,version,engine,precision,setting}
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from edgeloop.contracts.errors import Unavailable
from edgeloop.serve.models import Model, Models
from edgeloop.serve.tally import BUCKETS_S

if TYPE_CHECKING:
    from prometheus_client import Metric

_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


def exposition(models: Models, *, queue_limit: int) -> tuple[bytes, bytes]:
    """The metrics in Prometheus' text form, and its content type. Raises Unavailable without prometheus-client."""
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
        from prometheus_client.registry import Collector
    except ImportError as error:
        raise Unavailable(
            f"prometheus-client is not installed here ({error}); install it with: pip install 'edgeloop[server]'"
        ) from error

    class _Now(Collector):
        def collect(self) -> "Iterator[Metric]":
            yield from _requests(models)
            yield from _pools(models, queue_limit)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Now())
    ProcessCollector(registry=registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST.encode()


def _requests(models: Models) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    requests = CounterMetricFamily("edgeloop_requests", "Answers by status.", labels=["model", "version", "code"])
    seconds = HistogramMetricFamily("edgeloop_request_seconds", "Time to answer.", labels=["model", "version"])
    for status, count in models.astray.items():
        requests.add_metric(["", "", str(status)], count)
    for model in models.by_name.values():
        for version, tally in model.tallies.items():
            for status, count in tally.by_status.items():
                requests.add_metric([model.name, version, str(status)], count)
            bounds = [*map(str, BUCKETS_S), "+Inf"]
            buckets = list(zip(bounds, accumulate(tally.in_bucket), strict=True))
            seconds.add_metric([model.name, version], buckets, tally.total_s)
    yield requests
    yield seconds


def _pools(models: Models, queue_limit: int) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    made = CounterMetricFamily("edgeloop_predictions", "Inputs by outcome.", labels=["model", "outcome"])
    batches = HistogramMetricFamily("edgeloop_batch_size", "Inputs a run of the engine.", labels=["model"])
    depth = GaugeMetricFamily("edgeloop_queue_depth", "Inputs that wait or are being answered.", labels=["model"])
    limit = GaugeMetricFamily("edgeloop_queue_limit", "How many may wait.", labels=["model"])
    workers = GaugeMetricFamily("edgeloop_workers", "Threads that answer.", labels=["model"])
    swaps = CounterMetricFamily("edgeloop_swaps", "Versions by outcome.", labels=["model", "outcome"])
    info = GaugeMetricFamily(
        "edgeloop_model_info", "What answers now.", labels=["model", "version", "engine", "precision", "setting"]
    )
    for model in models.by_name.values():
        pool, counts = model.pool, model.pool.counts
        for outcome in ("answered", "failed", "rejected", "late", "gone"):
            made.add_metric([model.name, outcome], getattr(counts, outcome))
        batches.add_metric([model.name], _batch_buckets(model), sum(size * n for size, n in counts.batches.items()))
        depth.add_metric([model.name], pool.depth)
        limit.add_metric([model.name], queue_limit)
        workers.add_metric([model.name], pool.workers)
        swaps.add_metric([model.name, "swapped"], counts.swaps)
        swaps.add_metric([model.name, "refused"], model.swap_failures)
        now = pool.servable
        info.add_metric([model.name, model.version, now.engine, now.precision, str(now.setting)], 1)
    yield from (made, batches, depth, limit, workers, swaps, info)


def _batch_buckets(model: Model) -> list[tuple[str, float]]:
    runs = model.pool.counts.batches
    below = [(str(bound), float(sum(n for size, n in runs.items() if size <= bound))) for bound in _BATCHES]
    return [*below, ("+Inf", float(sum(runs.values())))]
