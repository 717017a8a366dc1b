"""`edgeloop serve` over HTTP beside LitServe, BentoML and MLServer: the same models, cores, clients and questions."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import edgeloop
from benchmarks import bundles
from benchmarks.context import Context, Work
from benchmarks.data import Absent
from benchmarks.peers import venv
from benchmarks.rows import Row, not_run, ratio_at_most
from benchmarks.servers import measure, models, peers

NAME = "serve"
CLIENTS = (1, 8, 64)

_TIMES = 2.0
_ROUNDS, _TURN_S = 5, 1.5
_OURS = "edgeloop"


def _rows(context: Context) -> Iterator[Row]:
    digits, model = bundles.digits(context)
    for title, bundle, served in (
        ("digits", digits, models.served_digits(context.assets, model)),
        ("MobileNetV2", bundles.mobilenet_v2(context), models.served_mobilenet(context.assets)),
    ):
        yield from _model(context, title, bundle, served)


def _model(context: Context, title: str, bundle: Path, served: peers.Served) -> Iterator[Row]:
    predictor = edgeloop.load(bundle)
    label = predictor.predict(served.pixels).label or ""
    predictor.close()
    with ExitStack() as stack:
        servers = {}
        for peer in (peers.edgeloop(bundle, label), *peers.PEERS):
            folder = context.scratch / "serve" / title / peer.title.replace(" ", "-")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                servers[peer.title] = stack.enter_context(peers.start(peer, served, folder))
            except Absent as error:
                yield not_run(NAME, f"{title}, requests/s", peer.title, str(error))
        for clients in CLIENTS:
            context.tell(f"{NAME}: {title}, {clients} clients")
            found = measure.in_turns(servers, clients=clients, rounds=_ROUNDS, turn_s=_TURN_S)
            yield from _beside(f"{title}, {clients} clients", found)


def _beside(what: str, found: dict[str, measure.Load]) -> Iterator[Row]:
    ours = found.pop(_OURS)
    if not found:
        yield not_run(NAME, f"{what}, requests/s", "", "no peer is installed; --install-peers makes their environments")
        return
    best = max(found, key=lambda peer: found[peer].requests_per_s)
    told = "; ".join(f"{peer} {load.requests_per_s:,.0f}/s p99 {load.p99_ms:.1f}" for peer, load in found.items())
    errors = ", ".join(f"{peer}: {load.errors} errors" for peer, load in {_OURS: ours, **found}.items() if load.errors)
    row = ratio_at_most(
        NAME, f"{what}, s a 1,000 requests", best, ours=1e3 / ours.requests_per_s,
        theirs=1e3 / found[best].requests_per_s, bound=1 / _TIMES,
        note=f"{ours.requests_per_s:,.0f}/s, the load generator at {ours.generator_cores:.2f} cores; {told}"
        f"{'; ' + errors if errors else ''}",
    )  # fmt: skip
    yield row
    yield ratio_at_most(NAME, f"{what}, p99 ms", best, ours=ours.p99_ms, theirs=found[best].p99_ms, bound=1.0)


PEERS = venv.SERVERS

WORK = Work(NAME, "edgeloop serve beside three servers, 1 to 64 clients", _rows)
