"""How a loop that the sweep is compared with is told what to do: a number for each round on standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable


def serve(refresh: Callable[[int], None]) -> None:
    """Refresh as many rows as each line of standard input says, and confirm it, until there are no more lines."""
    print("ready", flush=True)
    for line in sys.stdin:
        refresh(int(line))
        print("done", flush=True)
