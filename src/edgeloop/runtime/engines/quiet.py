"""Native libraries greet on standard error, below Python and with no switch; this lets only their news through."""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_CHATTER = (
    b"INFO: Created ",  # LiteRT, at the first delegate
    b"WARNING: All log messages before absl::InitializeLog()",  # TensorFlow, at import
    b"I0000 ",
    b"W0000 ",
)
_busy = threading.Lock()


@contextmanager
def without_native_chatter() -> Iterator[None]:
    """Hold back standard error, drop lines that are known to say nothing, pass on all others.

    One caller at a time; another one meanwhile goes unfiltered.
    """
    if not _busy.acquire(blocking=False):
        yield
        return
    try:
        sys.stderr.flush()
        kept = os.dup(2)
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(kept, 2)
                os.close(kept)
                said.seek(0)
                lines = [line for line in said.read().splitlines(keepends=True) if not line.startswith(_CHATTER)]
                os.write(2, b"".join(lines))
    finally:
        _busy.release()
