"""The hand loop in a fresh process, from its imports to its first answer: `python -m benchmarks.hand.first MODEL PNG`.

Prints one line of JSON: {"label": the digit, "inside_ms": since this file's first line}.
"""

import time

STARTED_S = time.perf_counter()

import json  # noqa: E402 - the clock starts before any import
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from benchmarks.hand.digits import make_from_png  # noqa: E402

if __name__ == "__main__":
    digit = make_from_png(Path(sys.argv[1]))(Path(sys.argv[2]).read_bytes())
    took_ms = 1000 * (time.perf_counter() - STARTED_S)
    sys.stdout.write(json.dumps({"label": str(digit), "inside_ms": took_ms}) + "\n")
