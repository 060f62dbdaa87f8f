"""The exit statuses of a process that runs a node; the command line's others are in ``cli.exits``."""

from __future__ import annotations

from typing import Final

BROKEN: Final = 1
"""A rule of the protocol does not hold, or this is a bug."""
UNAVAILABLE: Final = 3
"""The store cannot be used: no store, in use, damaged, or its disk is full."""
