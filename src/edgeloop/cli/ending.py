"""How a process of ours ends: an error becomes a line on standard error and an exit code, see `app`."""

import os
import sys
from collections.abc import Callable

from edgeloop.contracts.errors import EdgeloopError


def run_to_end(work: Callable[[], object]) -> None:
    """Do it; where it fails, the process ends with the failure's exit code."""
    try:
        work()
    except EdgeloopError as error:
        from rich.console import Console  # a process that ends well need not load it

        Console(stderr=True, soft_wrap=True).print(f"[bold red]{error.code}[/]: {_plain(str(error))}", highlight=False)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
