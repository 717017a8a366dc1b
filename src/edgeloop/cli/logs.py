"""Logs of every command: one line of logfmt an event, on standard error, so that results can be piped."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def set_up_logging() -> None:
    """EDGELOOP_LOG sets the level. To be called before anything else imports structlog."""
    with _hidden("rich"):
        # Where structlog finds rich it loads all that draws coloured tracebacks; ours are plain text.
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
def _hidden(package: str) -> Iterator[None]:
    """For the while, importing this package says that it is not installed."""
    there = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment]  # what the import system documents for this
    try:
        yield
    finally:
        del sys.modules[package]
        if there is not None:
            sys.modules[package] = there
