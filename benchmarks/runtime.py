"""Print the figures table of the runtime and write it to build/bench-runtime.json, row by row.

    python -m benchmarks.runtime [--only NAME]... [--assets FOLDER] [--install-peers]

Run it on an otherwise idle machine: everything is timed by turns and told as medians, but a loaded machine still blurs
it. A work whose data is absent is a row with the reason; one that fails is a row that says so, and the others go on.
`command` says what it exits with.
"""

from collections.abc import Sequence
from functools import partial

from benchmarks import command
from benchmarks.answers import end_to_end, keywords, overhead, race, serve, start, still
from benchmarks.peers import venv

WORKS = (
    end_to_end.WORK,
    race.WORK,
    overhead.WORK,
    still.WORK,
    serve.WORK,
    start.START_WORK,
    start.MEMORY_WORK,
    keywords.WORK,
)
"""In the order of the table."""

_PEERS = {title: partial(venv.install, title) for title in venv.SERVERS}


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    asked = command.begin("runtime", "The runtime's figures, beside those of its peers.", WORKS).parse_args(arguments)
    return command.finish("runtime", WORKS, asked, peers=_PEERS)


if __name__ == "__main__":
    command.exit_with(main)
