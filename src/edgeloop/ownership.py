"""Whether this process is edgeloop's own to its end, as the command line's are, or somebody's who imports it.

In a process of our own we may set up what others would stumble over. Below everything, since the command line says it
and the toolchain asks.
"""

_said: list[bool] = []


def is_ours() -> bool:
    """Whether the process is edgeloop's own; nobody else's unless that was said."""
    return bool(_said)


def take_over() -> None:
    """From now on, and to its end, the process is edgeloop's own."""
    _said.append(True)
