"""Logs of every command: one line of logfmt an event, on standard error, so that results can be piped."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def set_up_logging() -> None:
    """EDGELOOP_LOG sets the level. To be called before anything else imports structlog."""
    with hidden("rich", "greenlet"):
        # Where structlog finds rich it loads all that draws coloured tracebacks; ours are plain text. Greenlet it would
        # have for its own thread-local values, which we do not use: 1 MB.
        import structlog

    level = getattr(logging, os.environ.get("EDGELOOP_LOG", "INFO").upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event")),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


@contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """For the while, importing one of these packages says that it is not installed."""
    there = {package: sys.modules.get(package) for package in packages}
    for package in packages:
        sys.modules[package] = None  # type: ignore[assignment]  # what the import system documents for this
    try:
        yield
    finally:
        for package, module in there.items():
            del sys.modules[package]
            if module is not None:
                sys.modules[package] = module
