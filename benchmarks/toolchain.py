"""Print the figures table of the toolchain and write it to build/bench-toolchain.json, row by row.

    python -m benchmarks.toolchain [--only NAME]... [--assets FOLDER] [--budget MINUTES] [--install-peers]

Run it on an otherwise idle machine: latencies are medians of interleaved runs, but a loaded machine still blurs them,
and a search finds less in its minutes. A work whose data is absent is a row with the reason; one that fails is a row
that says so, and the others go on. `command` says what it exits with.
"""

from collections.abc import Sequence
from functools import partial

from benchmarks import command
from benchmarks.peers import venv
from benchmarks.works import fashion, kws, mnist, prune, resnet8, svm

WORKS = (mnist.WORK, fashion.WORK, kws.WORK, resnet8.WORK, prune.WORK, svm.WORK)
"""In the order of the table."""


_PEERS = {title: partial(venv.install, peer) for peer, title in venv.TITLES.items()}


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = command.begin("toolchain", "The toolchain's figures, beside those of its peers.", WORKS)
    parser.add_argument("--budget", type=float, default=10.0, help="minutes of each search (default: 10)")
    asked = parser.parse_args(arguments)
    return command.finish("toolchain", WORKS, asked, peers=_PEERS, budget_min=asked.budget)


if __name__ == "__main__":
    command.exit_with(main)
