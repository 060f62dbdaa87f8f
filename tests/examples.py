"""How many random cases a test tries."""

from __future__ import annotations

import os

from hypothesis import settings

LONG = bool(os.environ.get("KVSTORE_LONG"))
_BRIEF = 4


def examples(number: int) -> settings:
    """So many with ``KVSTORE_LONG=1``, as CI runs them, and a part of them otherwise."""
    return settings(max_examples=number if LONG else number // _BRIEF)
