"""A cloud in a process of its own that looks at every request, however many there are: for fuzz tests.

    python tests/open_cloud.py FOLDER [CODE]

Founds it in FOLDER/cloud, and says in a line of JSON when it is ready. CODE: Python that it runs first, with which a
test shows that it would notice a bug.
"""

import sys
from pathlib import Path

from edgeloop.cli.logs import set_up_logging
from edgeloop.cli.say import ready
from edgeloop.cloud.app import run_cloud
from edgeloop.cloud.config import CloudConfig
from edgeloop.cloud.found import found
from edgeloop.hub.limits import Limits
from edgeloop.hub.serve import Listen

EVERYTHING = Limits(
    requests_hz=1e9,
    requests_burst=10**9,
    bytes_hz=1e15,
    bytes_burst=10**15,
    failures_hz=1e9,
    failures_burst=10**9,
    entries_hz=1e9,
    entries_burst=10**9,
)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    exec("".join(sys.argv[2:3]))
    set_up_logging()
    config = CloudConfig(folder=folder / "cloud", listen=Listen(), limits=EVERYTHING)
    found(config, keys=folder / "keys", url="http://127.0.0.1")
    run_cloud(config, on_ready=lambda url: ready("cloud", as_json=True, url=url))
