"""`edgeloop demo`: the whole loop on one machine, with real processes, on real handwritten digits."""

from edgeloop.cli.demo.command import demo

__all__ = ["demo"]
