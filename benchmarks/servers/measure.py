"""How much servers answer and how soon: all asked in turns, in one run, by one load generator."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks import serve_load
from benchmarks.servers.peers import Server

WARM_UP_S = 0.3


@dataclass(frozen=True)
class Load:
    """Medians over rounds. errors: over all of them, a wrong answer being one. generator_cores: near 1.0, the load
    generator was the bottleneck and not the server."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    generator_cores: float


def in_turns(
    servers: Mapping[str, Server], *, clients: int, rounds: int, turn_s: float, seed: int = 0
) -> dict[str, Load]:
    """Each server's load, by key. They must be up; each round gives each a turn, in an order that changes."""
    rng = np.random.default_rng(seed)
    keys = list(servers)
    tallies: dict[str, list[serve_load.Tally]] = {key: [] for key in keys}
    for _ in range(rounds):
        for index in rng.permutation(len(keys)):
            request = servers[keys[index]].request
            serve_load.run(request, clients=clients, seconds=WARM_UP_S)
            tallies[keys[index]].append(serve_load.run(request, clients=clients, seconds=turn_s))
    return {key: summed_up(each) for key, each in tallies.items()}


def summed_up(tallies: list[serve_load.Tally]) -> Load:
    """The medians of several turns of one server."""
    percentiles = [np.percentile(tally.latencies_ms or [np.inf], (50, 99)) for tally in tallies]
    p50, p99 = np.median(percentiles, axis=0)
    return Load(
        requests_per_s=float(np.median([len(tally.latencies_ms) / tally.seconds for tally in tallies])),
        p50_ms=float(p50),
        p99_ms=float(p99),
        errors=sum(tally.errors.total() for tally in tallies),
        generator_cores=float(np.median([tally.cpu_seconds / tally.seconds for tally in tallies])),
    )
